"""Prometheus metrics. Values are read from the service at each scrape; only latencies are recorded per caption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import chain

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from streamcap.captions.caption import Caption
from streamcap.captions.event import Event
from streamcap.server.feed.broadcaster import FeedBroadcaster
from streamcap.server.metrics.exposition import Histograms, render
from streamcap.server.metrics.models import model_metrics
from streamcap.server.metrics.streams import StreamMetrics
from streamcap.server.webrtc.offers import OfferPace
from streamcap.streams.stream_set import StreamSet

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0)
_STAGES = ("ingest", "queue", "encode", "decode", "total")


class Metrics:
    """The metrics of one service."""

    def __init__(
        self,
        streams: StreamSet,
        broadcaster: FeedBroadcaster,
        whip_sessions: Sized,
        whep_sessions: Sized,
        offers: OfferPace,
        more: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._streams = streams
        self._broadcaster = broadcaster
        self._whip_sessions = whip_sessions
        self._whep_sessions = whep_sessions
        self._offers = offers
        self._more = more
        self._latency = Histograms(
            "streamcap_caption_latency_seconds",
            "Time from a frame's arrival to its final caption, by stage; `total` is the sum.",
            ("stream", "stage"),
            _BUCKETS,
        )
        self._of_streams = StreamMetrics(streams)
        self._process = (PlatformCollector(registry=None), ProcessCollector(registry=None))

    def observe(self, event: Event) -> None:
        """Take a final caption's latency into the histograms; called for every event published."""
        caption = event.payload
        if not isinstance(caption, Caption) or not caption.is_final or not self._streams.runs(caption.stream):
            return
        for stage in _STAGES:
            self._latency.observe(caption.stream, stage, getattr(caption.latency, stage) / 1000)

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        self._latency.keep_only(self._names())
        return "".join(chain(self._latency.render(), self._of_streams.render(), render(self._collect())))

    def _names(self) -> list[str]:
        """The streams that run here: other nodes tell about theirs."""
        return [name for name in self._streams.names() if self._streams.runs(name)]

    def _collect(self) -> Iterator[Metric]:
        yield from self._of_engine()
        yield from self._of_feed()
        yield from self._of_load()
        yield from self._more()
        for collector in self._process:
            yield from collector.collect()

    def _of_engine(self) -> Iterator[Metric]:
        engine = self._streams.engine
        yield from model_metrics(self._streams)
        yield _counter("engine_samples", "Samples submitted to the engine.", engine.samples)
        yield _counter("engine_batches", "Batches run on the device.", engine.batches)
        yield _counter("engine_captioned", "Samples decoded to a new caption.", engine.captioned)
        yield _counter("engine_decode_skipped", "Samples not decoded: the image did not change.", engine.decode_skipped)
        yield _counter("engine_duplicate", "Samples decoded to the current caption.", engine.duplicates)
        yield _counter(
            "engine_unconfirmed",
            "Samples decoded to a new caption that the next sample had to confirm.",
            engine.unconfirmed,
        )
        yield _counter("engine_failed", "Samples that failed.", engine.failed)
        yield _counter("engine_busy_seconds", "Seconds the device thread was busy.", engine.busy_seconds)
        yield from self._of_drafts()

    def _of_load(self) -> Iterator[Metric]:
        load = self._streams.overload
        gauges = {
            "overloaded": ("1 while captions are late because this machine is too slow.", float(load.overloaded)),
            "late_share": ("Share of the live streams whose captions are late, 0 to 1.", load.late_share),
            "max_stream_lag_seconds": ("By how much the captions of the latest stream are late.", load.lag),
            "interval_stretch": (
                "Factor by which captions come less often than configured.",
                load.stretch,
            ),
            "event_loop_delay_seconds": ("By how much the event loop is late.", self._streams.loop_delay),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"streamcap_{name}", text, value=value)

    def _of_drafts(self) -> Iterator[Metric]:
        drafts = self._streams.engine.drafts
        yield _counter("decoder_passes", "Forward passes of the decoder, summed over captions.", drafts.passes)
        tokens = CounterMetricFamily(
            "streamcap_draft_tokens", "Draft tokens that were verified, and those accepted.", labels=("kind",)
        )
        tokens.add_metric(("proposed",), drafts.proposed)
        tokens.add_metric(("accepted",), drafts.accepted)
        yield tokens
        yield _counter("drafts_dropped", "Drafts cut at a token outside the vocabulary.", drafts.dropped)

    def _of_feed(self) -> Iterable[Metric]:
        broadcaster, hub = self._broadcaster, self._broadcaster.hub.statistics
        seen = broadcaster.statistics
        yield GaugeMetricFamily("streamcap_feed_subscribers", "Current subscribers.", value=broadcaster.present)
        yield GaugeMetricFamily("streamcap_whip_sessions", "Current WHIP publishers.", value=len(self._whip_sessions))
        yield GaugeMetricFamily("streamcap_whep_sessions", "Current WHEP viewers.", value=len(self._whep_sessions))
        yield _counter(
            "webrtc_offers_refused", "WHIP and WHEP offers refused: too many at a time.", self._offers.refused
        )
        yield GaugeMetricFamily(
            "streamcap_ready", "1 once the model is loaded and the engine runs.", value=float(self._streams.ready)
        )
        yield _counter("viewers_connected", "Subscribers since the start.", seen.connected)
        yield _counter("viewers_refused", "Subscribers refused: limit reached.", seen.refused)
        yield _counter("viewers_closed_slow", "Subscribers disconnected: too slow.", seen.closed_slow)
        yield _counter("messages_sent", "Messages written to subscribers.", seen.messages)
        dropped = CounterMetricFamily(
            "streamcap_messages_dropped",
            "Messages dropped for slow subscribers, counted when they leave.",
            labels=("kind",),
        )
        dropped.add_metric(("interim",), seen.interim_dropped)
        dropped.add_metric(("final",), seen.finals_dropped)
        yield dropped
        yield _counter("events_published", "Events published, all streams.", hub.published)
        yield _counter("events_stale", "Captions too old to be pushed as live.", hub.stale)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"streamcap_{name}", text, value=value)
