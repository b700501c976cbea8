"""`LatestSampleQueue`: the newest waiting sample of each stream."""

from __future__ import annotations

from streamcap.media.frame import Sample


def encoder_of(sample: Sample) -> str:
    """The local model that sees `sample` first."""
    return sample.model if sample.encoder is None else sample.encoder


class LatestSampleQueue:
    """At most one waiting sample a stream, for whatever model. Policy: the newer sample stays (KEEP_LATEST).

    Pure; the engine locks around it. The newer sample keeps the queue position of the older one, so that a stream
    with a short period cannot starve.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Sample] = {}
        self.superseded: dict[str, int] = {}
        """Samples replaced before they were captioned, by stream."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, sample: Sample) -> None:
        waiting = self._waiting.get(sample.stream)
        if waiting is not None:
            self.superseded[sample.stream] = self.superseded.get(sample.stream, 0) + 1
            if waiting.submitted > sample.submitted:  # a sample that a remote model failed on comes back late
                return
        self._waiting[sample.stream] = sample

    def encoders(self) -> list[str]:
        """The local models that samples wait for, longest waiting first."""
        return list(dict.fromkeys(map(encoder_of, self._waiting.values())))

    def waiting(self, encoder: str) -> int:
        """How many samples wait for the local model `encoder`."""
        return sum(encoder_of(sample) == encoder for sample in self._waiting.values())

    def take(self, max_samples: int, encoder: str = "") -> list[Sample]:
        """Remove and return up to `max_samples` samples of the local model `encoder`, oldest position first.

        All have one shape, as they become one batch; others wait for the next batch.
        """
        taken: list[Sample] = []
        for sample in list(self._waiting.values()):
            if len(taken) == max_samples:
                break
            if encoder_of(sample) != encoder:
                continue
            if taken and sample.pixels.shape != taken[0].pixels.shape:
                continue
            taken.append(self._waiting.pop(sample.stream))
        return taken

    def forget(self, stream: str) -> None:
        """Drop the waiting sample of a removed stream."""
        self._waiting.pop(stream, None)
        self.superseded.pop(stream, None)
