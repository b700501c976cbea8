"""`LatestSampleQueue`: the newest sample of every stream, waiting for the device."""

from __future__ import annotations

from streamcap.media.frame import Sample


class LatestSampleQueue:
    """At most one waiting sample a stream. Policy: REPLACE — a stream's newer sample takes its older one's place.

    Pure; the engine holds a lock around it. A replaced sample keeps its place in the line, so that a stream with a
    short period cannot starve for being refreshed.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Sample] = {}
        self.superseded: dict[str, int] = {}
        """Samples that were never captioned since a newer one came, by stream."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, sample: Sample) -> None:
        if sample.stream in self._waiting:
            self.superseded[sample.stream] = self.superseded.get(sample.stream, 0) + 1
        self._waiting[sample.stream] = sample

    def take(self, max_samples: int) -> list[Sample]:
        """Up to `max_samples` samples, those that wait longest first.

        All of one shape, since they become one batch: others wait for the next.
        """
        taken: list[Sample] = []
        for sample in list(self._waiting.values()):
            if len(taken) == max_samples:
                break
            if taken and sample.pixels.shape != taken[0].pixels.shape:
                continue
            taken.append(self._waiting.pop(sample.stream))
        return taken

    def forget(self, stream: str) -> None:
        """Drop what waits of a stream that is no more."""
        self._waiting.pop(stream, None)
        self.superseded.pop(stream, None)
