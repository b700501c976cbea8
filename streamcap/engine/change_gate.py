"""`ChangeGate`: has the image moved since the last final caption, and is a new sentence news?

Neighbouring systems resend one text on every frame, or rephrase a still scene for ever; a viewer wants neither. But a
real arrival must never be hidden: when in doubt, decode; when decoded, only the same words count as the same sentence;
and another sentence about an image that has hardly moved waits for the next sample at most, which must not take it
back. How this was chosen is in docs/gate.md.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from streamcap.errors import InputError
from streamcap.media.frame import Sample

Features = npt.NDArray[np.float32]

# Calibrated on drawn scenes and real clips: see docs/gate.md.
DEFAULT_THRESHOLD = 0.02
# Images that one final is known to be true of. A walk cycle has about so many that differ.
MAX_REFERENCES = 16

# Words that carry no news by themselves: "a dog is running" and "the dog running" say the same.
_FILLERS = frozenset({"a", "an", "the", "is", "are", "was", "were", "there", "that", "this", "some"})


@dataclass(frozen=True, slots=True)
class ChangeGateOptions:
    threshold: float
    """Cosine distance from the last final's images below which nothing has changed; 0 opens the gate for good: every
    sample becomes a caption."""
    refresh_interval: float = 60.0
    """Seconds after which a final is decoded anew, whatever the image did."""
    confirm_below: float = 5.0
    """In thresholds: an image nearer than that is likelier the same scene in motion than another one."""
    confirm_timeout: float = 2.0
    """Seconds: the longest wait for a second sample to bear out another sentence about a near image. Where samples
    come less often, none is waited for; 0: never."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 2:
            raise InputError(f"--change-threshold {self.threshold:g}: a cosine distance from 0 up to 2")
        if not 0 < self.refresh_interval < math.inf:
            raise InputError(f"--refresh-interval {self.refresh_interval:g}: seconds, above 0")
        if self.confirm_below < 1:
            raise InputError(f"confirm_below {self.confirm_below:g}: at least 1")
        if self.confirm_timeout < 0:
            raise InputError(f"confirm_timeout {self.confirm_timeout:g}: seconds, at least 0")


class Verdict(Enum):
    """What a decoded sentence is."""

    UNCHANGED = auto()
    """What the last final says."""
    UNCONFIRMED = auto()
    """Another sentence about an image that has hardly moved: the next sample decides."""
    CHANGED = auto()


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    first: Sample | None = None
    """Of news that was doubtful at first: the earlier sample that said the same."""


@dataclass(slots=True)
class _Final:
    """The last final of a stream."""

    text: str
    epoch: int
    start: float
    references: list[Features]
    """Images it is true of: its own, then the newest others that were decoded to the same words."""
    last_sample_at: float
    """When the newest sample was."""
    unconfirmed: tuple[str, Sample] | None = None
    """What the newest sample said, if that was doubtful."""


@dataclass(slots=True)
class ChangeGate:
    """The last final of every stream, and how far an image is from it. Pure; of one thread."""

    options: ChangeGateOptions
    _finals: dict[str, _Final] = field(default_factory=dict)

    def distance(self, sample: Sample, features: Features) -> float:
        """Cosine distance, 0 to 2, of `features` (D, unit length) of `sample` from the last final's nearest image.

        Infinite where there is none to compare with: the first sample, another epoch, or a final older than
        `refresh_interval`. Raises FloatingPointError where it is not a number: a comparison would take that for unchanged.
        """
        final = self._finals.get(sample.stream)
        if (
            final is None
            or final.epoch != sample.epoch
            or sample.start - final.start >= self.options.refresh_interval
            or final.references[0].shape != features.shape
        ):
            return float("inf")
        distance = 1.0 - max(float(np.dot(view, features)) for view in final.references)
        if not math.isfinite(distance):
            raise FloatingPointError("the distance of two embeddings is not a number")
        return max(0.0, distance)

    def is_unchanged(self, distance: float) -> bool:
        """Whether an image at `distance` shows what the last final says."""
        return distance < self.options.threshold

    def is_changed(self, distance: float) -> bool:
        """Whether an image at `distance` is surely another scene, so that its text may be shown as it comes."""
        return distance >= self.options.confirm_below * self.options.threshold

    def last_text(self, sample: Sample) -> str:
        """What the last final of this stream and epoch says; empty where the gate is open or there is none."""
        final = self._finals.get(sample.stream)
        known = final is not None and final.epoch == sample.epoch and self.options.threshold > 0
        return final.text if final is not None and known else ""

    def mark_unchanged(self, sample: Sample) -> None:
        """The image of `sample` is still: the final is true, whatever the last sample said."""
        final = self._finals[sample.stream]
        final.last_sample_at, final.unconfirmed = sample.start, None

    def classify(self, sample: Sample, features: Features, distance: float, text: str) -> Judgement:
        """What `text`, decoded for `sample` at `distance`, is; remembered for the next."""
        final = self._finals.get(sample.stream)
        if self.options.threshold == 0 or final is None or distance == float("inf"):
            return Judgement(Verdict.CHANGED)
        period, final.last_sample_at = sample.start - final.last_sample_at, sample.start
        unconfirmed, final.unconfirmed = final.unconfirmed, None
        if content(text) == content(final.text):
            final.references.append(features)
            if len(final.references) > MAX_REFERENCES:
                del final.references[1]
            return Judgement(Verdict.UNCHANGED)
        if self.is_changed(distance) or period > self.options.confirm_timeout:
            return Judgement(Verdict.CHANGED)
        if unconfirmed is None:
            final.unconfirmed = (text, sample)
            return Judgement(Verdict.UNCONFIRMED)
        earlier, first = unconfirmed
        return Judgement(Verdict.CHANGED, first if content(earlier) == content(text) else None)

    def commit(self, sample: Sample, features: Features, text: str, *, first: Sample | None = None) -> None:
        """A final was published for `sample`; `first` as `classify` gave it."""
        self._finals[sample.stream] = _Final(text, sample.epoch, (first or sample).start, [features], sample.start)

    def forget(self, stream: str) -> None:
        self._finals.pop(stream, None)


def content(text: str) -> tuple[str, ...]:
    """The words of `text` that carry its meaning, in order, lower-case."""
    return tuple(word for word in re.findall(r"[\w']+", text.lower()) if word not in _FILLERS)
