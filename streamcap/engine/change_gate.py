"""`ChangeGate`: decides whether the image changed since the last final, and whether a new text is a new caption.

Other systems send one text again for every frame, or rephrase a static scene. The gate avoids both, but must not hide
a real change. So it decodes when in doubt, and treats a text as unchanged only if it has the same content words. A new
text for an image that barely changed must be confirmed by the next sample. docs/gate.md has the reasons.
"""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from streamcap.errors import InputError
from streamcap.media.frame import Sample

Features = npt.NDArray[np.float32]

# Calibrated on synthetic scenes and real clips: see docs/gate.md.
DEFAULT_THRESHOLD = 0.02
# Images kept for one final. A walk cycle has about this many distinct ones.
MAX_REFERENCES = 16

# Words ignored in comparisons: "a dog is running" equals "the dog running".
_FILLERS = frozenset({"a", "an", "the", "is", "are", "was", "were", "there", "that", "this", "some"})


@dataclass(frozen=True, slots=True)
class ChangeGateOptions:
    threshold: float
    """Cosine distance from the last final's images below which nothing has changed. 0 disables the gate: every sample
    becomes a caption."""
    refresh_interval: float = 60.0
    """Seconds after which an unchanged image is decoded again."""
    confirm_below: float = 5.0
    """In units of `threshold`: a new text for an image closer than this must be confirmed."""
    confirm_timeout: float = 2.0
    """Seconds: if samples are further apart than this, a new text needs no confirmation. 0: never wait for one."""

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
    """How a decoded text relates to the last final."""

    UNCHANGED = auto()
    """The same content words."""
    UNCONFIRMED = auto()
    """A new text for an image that barely changed: the next sample decides."""
    CHANGED = auto()


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    first: Sample | None = None
    """The earlier, unconfirmed sample with the same text, if any."""


@dataclass(slots=True)
class GateMemory:
    """The last final of a stream."""

    text: str
    model: str
    epoch: int
    start: float
    references: list[Features]
    """Features of its own image, then of the newest images that were decoded to the same words. Empty: they stayed on
    another machine."""
    last_sample_at: float
    """Start of the newest sample."""
    unconfirmed: tuple[str, Sample] | None = None
    """Text and sample of the newest outcome, if unconfirmed."""
    id: str = ""
    """Names the final, for memories that move between machines."""


@dataclass(slots=True)
class ChangeGate:
    """Compares each stream's samples with its last final, of whatever model. From any thread.

    No call takes longer than a millisecond, so that the event loop may call it too.
    """

    options: ChangeGateOptions
    _finals: dict[str, GateMemory] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def distance(self, sample: Sample, features: Features) -> float:
        """Cosine distance, 0 to 2, of `features` (D, unit length) of `sample` from the nearest image of the last final.

        Infinite if there is nothing to compare with: first sample, new epoch, a final of another model or without
        references, or one older than `refresh_interval`. Raises FloatingPointError for NaN, which would otherwise
        compare as unchanged.
        """
        with self._lock:
            final = self._finals.get(sample.stream)
            if final is None or not self._holds(final, sample):
                return float("inf")
            references = tuple(final.references)
        if not references or references[0].shape != features.shape:
            return float("inf")
        distance = 1.0 - max(float(np.dot(reference, features)) for reference in references)
        if not math.isfinite(distance):
            raise FloatingPointError("the distance of two embeddings is not a number")
        return max(0.0, distance)

    def _holds(self, final: GateMemory, sample: Sample) -> bool:
        """Whether `sample` is to be compared with `final`."""
        return (
            final.epoch == sample.epoch
            and final.model == sample.model
            and sample.start - final.start < self.options.refresh_interval
        )

    def is_unchanged(self, distance: float) -> bool:
        """Whether an image at `distance` is the same scene as the last final."""
        return distance < self.options.threshold

    def is_changed(self, distance: float) -> bool:
        """Whether an image at `distance` is certainly another scene, so that interim text may be shown."""
        return distance >= self.options.confirm_below * self.options.threshold

    def last_text(self, sample: Sample) -> str:
        """Text of the last final of this stream and epoch; empty if there is none or the gate is disabled."""
        with self._lock:
            final = self._finals.get(sample.stream)
        known = final is not None and final.epoch == sample.epoch and self.options.threshold > 0
        return final.text if final is not None and known else ""

    def mark_unchanged(self, sample: Sample) -> None:
        """The image of `sample` is unchanged: keep the final and drop an unconfirmed text."""
        with self._lock:
            final = self._finals.get(sample.stream)
            if final is not None:
                final.last_sample_at, final.unconfirmed = sample.start, None

    def classify(self, sample: Sample, features: Features, distance: float, text: str) -> Judgement:
        """Classify `text`, decoded for `sample` at `distance`, and store it for the next sample."""
        with self._lock:
            return self._classify(sample, features, distance, text)

    def _classify(self, sample: Sample, features: Features, distance: float, text: str) -> Judgement:
        final = self._finals.get(sample.stream)
        # Without references only the words can be compared: an image is decoded, but not captioned again.
        if (
            self.options.threshold == 0
            or final is None
            or (distance == float("inf") and (final.references or not self._holds(final, sample)))
        ):
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

    def settle(
        self, sample: Sample, features: Features, distance: float, text: str, *, shown: bool = False
    ) -> Judgement:
        """Classify `text` as `classify` does, and commit it if it is a new caption.

        shown: an interim text of the caption was shown, so that it must become final, even with the same text.
        """
        judgement = self.classify(sample, features, distance, text)
        if judgement.verdict is not Verdict.CHANGED and not shown:
            return judgement
        self.commit(sample, features, text, first=judgement.first)
        return Judgement(Verdict.CHANGED, judgement.first)

    def is_outdated(self, sample: Sample) -> bool:
        """Whether another model has seen a newer sample of the stream."""
        with self._lock:
            final = self._finals.get(sample.stream)
            return (
                final is not None
                and final.model != sample.model
                and (final.epoch, final.last_sample_at) > (sample.epoch, sample.start)
            )

    def commit(self, sample: Sample, features: Features, text: str, *, first: Sample | None = None) -> None:
        """Store the final published for `sample`; `first` is from `classify`."""
        final = GateMemory(text, sample.model, sample.epoch, (first or sample).start, [features], sample.start)
        with self._lock:
            self._finals[sample.stream] = final

    def load(self, stream: str, memory: GateMemory | None) -> None:
        """Let `memory`, which came with a sample from another machine, be the last final of `stream`."""
        with self._lock:
            if memory is None:
                self._finals.pop(stream, None)
            else:
                self._finals[stream] = memory

    def take(self, stream: str) -> GateMemory | None:
        """Remove and return the last final of `stream`: it goes back to the machine that it came from."""
        with self._lock:
            return self._finals.pop(stream, None)

    def forget(self, stream: str) -> None:
        with self._lock:
            self._finals.pop(stream, None)


def content(text: str) -> tuple[str, ...]:
    """The content words of `text`, in order, lower-case."""
    return tuple(word for word in re.findall(r"[\w']+", text.lower()) if word not in _FILLERS)
