"""Prometheus metrics: read from the streams and the audience when asked, so that counting costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from streamcap.captions.caption import Caption
from streamcap.captions.event import Event, StreamState
from streamcap.server.feed.broadcaster import FeedBroadcaster
from streamcap.streams.stream_set import StreamSet

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0)
_PARTS = ("ingest", "queue", "encode", "decode", "total")


class Metrics(Collector):
    """Its own registry: two services in one process do not meet."""

    def __init__(
        self, streams: StreamSet, broadcaster: FeedBroadcaster, whip_sessions: Sized, whep_sessions: Sized
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._streams = streams
        self._broadcaster = broadcaster
        self._whip_sessions = whip_sessions
        self._whep_sessions = whep_sessions
        self._observed: set[str] = set()
        self._latency = Histogram(
            "streamcap_caption_latency_seconds",
            "From a frame's arrival to its final caption, by part; `total` is the whole way.",
            ("stream", "stage"),
            buckets=_BUCKETS,
            registry=None,  # `collect` gives it, streams that are gone taken out
        )
        self.registry.register(self)
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)

    def observe(self, event: Event) -> None:
        """Take a final caption's latency into the histograms; called for every event published."""
        caption = event.payload
        if not isinstance(caption, Caption) or not caption.is_final:
            return
        self._observed.add(caption.stream)
        for part in _PARTS:
            self._latency.labels(caption.stream, part).observe(getattr(caption.latency, part) / 1000)

    def collect(self) -> Iterator[Metric]:
        for gone in self._observed.difference(self._streams.names()):
            self._observed.remove(gone)
            for part in _PARTS:
                self._latency.remove(gone, part)
        yield from self._latency.collect()
        yield from self._of_streams()
        yield from self._of_engine()
        yield from self._of_feed()

    def _of_streams(self) -> Iterator[Metric]:
        counters = {
            "frames": "Frames decoded.",
            "sampled": "Frames converted and handed to the engine.",
            "captions": "Final captions.",
            "extended": "Samples that only extended the caption on screen.",
            "decode_skipped": "Samples whose image had not moved; they count as extended too.",
            "samples_missed": "Moments for which no frame came in time.",
            "frame_conversion_errors": "Sampled frames lost since they could not be converted.",
            "files_dropped": "Finals that no viewer got, since the disk refused or hung for too long.",
            "reconnections": "Times the source was lost or refused and will be opened again.",
        }
        families = {
            name: CounterMetricFamily(f"streamcap_{name}", text, labels=("stream",)) for name, text in counters.items()
        }
        state = GaugeMetricFamily(
            "streamcap_stream_state", "1 for the state a stream is in.", labels=("stream", "state")
        )
        source = CounterMetricFamily(
            "streamcap_source_events", "What the source now open has counted.", labels=("stream", "kind")
        )
        for name in self._streams.names():
            view = self._streams.get(name).view()
            for counter, family in families.items():
                family.add_metric((name,), getattr(view, counter))
            for kind, count in view.source.items():
                source.add_metric((name, kind), count)
            for one in StreamState:
                state.add_metric((name, one.value), float(one.value == view.state))
        yield from families.values()
        yield source
        yield state

    def _of_engine(self) -> Iterator[Metric]:
        engine = self._streams.engine
        yield _counter("engine_samples", "Samples the engine was given.", engine.samples)
        yield _counter("engine_batches", "Batches run on the device.", engine.batches)
        yield _counter("engine_captioned", "Samples decoded to a new caption.", engine.captioned)
        yield _counter("engine_decode_skipped", "Samples whose image had not moved.", engine.decode_skipped)
        yield _counter("engine_duplicate", "Samples decoded to the sentence on screen.", engine.duplicates)
        yield _counter(
            "engine_unconfirmed",
            "Samples decoded to another sentence that the next had to bear out.",
            engine.unconfirmed,
        )
        yield _counter("engine_failed", "Samples that failed.", engine.failed)
        yield _counter("engine_busy_seconds", "Seconds the device thread was at work.", engine.busy_seconds)
        superseded = CounterMetricFamily(
            "streamcap_engine_replaced", "Waiting samples replaced by a newer one.", labels=("stream",)
        )
        for name in self._streams.names():
            superseded.add_metric((name,), engine.superseded.get(name, 0))
        yield superseded

    def _of_feed(self) -> Iterable[Metric]:
        broadcaster, hub = self._broadcaster, self._broadcaster.hub.statistics
        seen = broadcaster.statistics
        yield GaugeMetricFamily("streamcap_feed_subscribers", "Subscribers of the feed now.", value=broadcaster.present)
        yield GaugeMetricFamily("streamcap_whip_sessions", "WHIP publishers now.", value=len(self._whip_sessions))
        yield GaugeMetricFamily("streamcap_whep_sessions", "WHEP viewers of video now.", value=len(self._whep_sessions))
        yield GaugeMetricFamily(
            "streamcap_ready", "1 once the model is loaded and the engine runs.", value=float(self._streams.ready)
        )
        yield _counter("viewers_connected", "Subscribers ever.", seen.connected)
        yield _counter("viewers_refused", "Subscribers turned away for want of room.", seen.refused)
        yield _counter("viewers_closed_slow", "Subscribers closed because they did not read.", seen.closed_slow)
        yield _counter("messages_sent", "Messages written to subscribers.", seen.messages)
        dropped = CounterMetricFamily(
            "streamcap_messages_dropped", "Messages dropped for slow subscribers that have left.", labels=("kind",)
        )
        dropped.add_metric(("interim",), seen.interim_dropped)
        dropped.add_metric(("final",), seen.finals_dropped)
        yield dropped
        yield _counter("events_published", "Events of all streams.", hub.published)
        yield _counter("events_stale", "Captions that came too late to be pushed as live.", hub.stale)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"streamcap_{name}", text, value=value)
