"""Prometheus metrics of each stream."""

from __future__ import annotations

from collections.abc import Iterator

from streamcap.captions.event import StreamState
from streamcap.server.metrics.exposition import Series
from streamcap.streams.stream_set import StreamSet

_COUNTERS = {
    "frames": "Frames decoded.",
    "sampled": "Frames converted and sent to the engine.",
    "captions": "Final captions.",
    "captions_held_back": "Captions not published, since the model was not sure enough.",
    "extended": "Samples that only extended the current caption.",
    "decode_skipped": "Samples not decoded, since the image did not change; part of extended.",
    "samples_missed": "Samples missed because no frame arrived in time.",
    "frame_conversion_errors": "Sampled frames that could not be converted.",
    "files_dropped": "Final captions dropped because the disk failed or did not respond.",
    "skips_ahead": "New connections to skip video that waited too long to be read.",
    "reconnections": "Reconnections after the source was lost or refused.",
}
_STATES = tuple(state.value for state in StreamState)


class StreamMetrics:
    """Read from the streams at each scrape, each stream once."""

    def __init__(self, streams: StreamSet) -> None:
        self._streams = streams
        self._counters = {
            name: Series(f"streamcap_{name}", text, "counter", ("stream",)) for name, text in _COUNTERS.items()
        }
        self._source = Series("streamcap_source_events", "Counters of the open source.", "counter", ("stream", "kind"))
        self._state = Series(
            "streamcap_stream_state", "1 for the current state of a stream, else 0.", "gauge", ("stream", "state")
        )
        self._lag = Series(
            "streamcap_stream_lag_seconds",
            "By how much captions are late because of this machine; 0 unless the stream is live.",
            "gauge",
            ("stream",),
        )
        self._age = Series(
            "streamcap_caption_age_seconds", "Time since the newest captioned frame arrived.", "gauge", ("stream",)
        )
        self._model = Series("streamcap_stream_model", "1 for the model of each stream.", "gauge", ("stream", "model"))
        self._dropped = Series(
            "streamcap_engine_dropped", "Samples dropped before the model ran.", "counter", ("stream", "reason")
        )

    def render(self) -> Iterator[str]:
        """The lines of all streams."""
        streams = self._streams
        views = [streams.get(name).view() for name in streams.names() if streams.runs(name)]
        for counter, series in self._counters.items():
            yield from series.render(((view.name,), getattr(view, counter)) for view in views)
        yield from self._source.render(
            ((view.name, kind), count) for view in views for kind, count in view.source.items()
        )
        yield from self._state.render(
            ((view.name, state), float(state == view.state)) for view in views for state in _STATES
        )
        yield from self._lag.render(((view.name,), view.lag) for view in views)
        yield from self._age.render(((view.name,), view.caption_age) for view in views if view.caption_age is not None)
        yield from self._model.render(((view.name, view.model), 1.0) for view in views)
        engine = streams.engine
        yield from self._dropped.render(((view.name, "superseded"), engine.superseded_of(view.name)) for view in views)
