"""Prometheus metrics of each model: local ones on the device thread, remote ones behind a server."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from streamcap.streams.stream_set import StreamSet

_LOCAL = {
    "samples": "Samples that the model's encoder has seen.",
    "batches": "Batches of the model.",
    "busy_seconds": "Seconds that the model used the device thread.",
}
_REMOTE = {
    "sent": "Requests sent.",
    "saved": "Samples without a request, since their image had not changed.",
    "failed": "Requests without a usable answer.",
    "held_back": "Samples without a request, since the server had failed shortly before.",
    "fallbacks": "Samples that the fallback captioned.",
    "captioned": "Requests whose answer became a caption.",
}


def model_metrics(streams: StreamSet) -> Iterator[Metric]:
    """The models of the service."""
    info = GaugeMetricFamily("streamcap_model_info", "1 for each model that runs.", labels=("model",))
    for name in streams.models:
        info.add_metric((name,), 1.0)
    yield info
    for field, text in _LOCAL.items():
        family = CounterMetricFamily(f"streamcap_model_{field}", text, labels=("model",))
        for name, local in streams.engine.models.items():
            family.add_metric((name,), getattr(local, field))
        yield family
    for field, text in _REMOTE.items():
        family = CounterMetricFamily(f"streamcap_model_requests_{field}", text, labels=("model",))
        for name, remote in streams.engine.remotes.items():
            family.add_metric((name,), getattr(remote, field))
        yield family
    tokens = CounterMetricFamily(
        "streamcap_model_request_tokens", "Tokens of requests and answers.", labels=("model", "kind")
    )
    seconds = CounterMetricFamily("streamcap_model_request_seconds", "Duration of all requests.", labels=("model",))
    in_flight = GaugeMetricFamily("streamcap_model_requests_in_flight", "Present requests.", labels=("model",))
    for name, remote in streams.engine.remotes.items():
        tokens.add_metric((name, "in"), remote.tokens_in)
        tokens.add_metric((name, "out"), remote.tokens_out)
        seconds.add_metric((name,), remote.seconds)
        in_flight.add_metric((name,), remote.in_flight)
    yield from (tokens, seconds, in_flight)
