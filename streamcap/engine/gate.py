"""`Gate`: has the picture moved since the last final caption, and is a new sentence news?

Neighbouring systems resend one text on every frame, or rephrase a still scene for ever; a viewer wants neither. But a
real arrival must never be hidden: when in doubt, decode; when decoded, only the same words count as the same sentence;
and another sentence about a picture that has hardly moved waits for the next sample at most, which must not take it
back. How this was chosen is in docs/gate.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from streamcap.media.frame import Sample

Features = npt.NDArray[np.float32]

# Calibrated on drawn scenes and real clips: see docs/gate.md.
DEFAULT_THRESHOLD = 0.02
# Pictures that one final is known to be true of. A walk cycle has about so many that differ.
VIEWS = 16

# Words that carry no news by themselves: "a dog is running" and "the dog running" say the same.
_FILLERS = frozenset({"a", "an", "the", "is", "are", "was", "were", "there", "that", "this", "some"})


@dataclass(frozen=True, slots=True)
class GateOptions:
    threshold: float
    """Cosine distance from the last final's pictures below which nothing has changed; 0 opens the gate for good: every
    sample becomes a caption."""
    refresh: float = 60.0
    """Seconds after which a final is decoded anew, whatever the picture did."""
    near: float = 5.0
    """In thresholds: a picture nearer than that is likelier the same scene in motion than another one."""
    patience: float = 2.0
    """Seconds: the longest wait for a second sample to bear out another sentence about a near picture. Where samples
    come less often, none is waited for; 0: never."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 2:
            raise ValueError(f"gate threshold {self.threshold}: a cosine distance from 0 up to 2")
        if self.refresh <= 0:
            raise ValueError(f"gate refresh {self.refresh} s: above 0")
        if self.near < 1 or self.patience < 0:
            raise ValueError(f"gate near {self.near}, patience {self.patience} s: at least 1, and 0 or more")


class Verdict(Enum):
    """What a decoded sentence is."""

    SAME = auto()
    """What the last final says."""
    DOUBTFUL = auto()
    """Another sentence about a picture that has hardly moved: the next sample decides."""
    NEWS = auto()


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
    views: list[Features]
    """Pictures it is true of: its own, then the newest others that were decoded to the same words."""
    seen: float
    """When the newest sample was."""
    doubt: tuple[str, Sample] | None = None
    """What the newest sample said, if that was doubtful."""


@dataclass(slots=True)
class Gate:
    """The last final of every stream, and how far a picture is from it. Pure; of one thread."""

    options: GateOptions
    _finals: dict[str, _Final] = field(default_factory=dict)

    def distance(self, sample: Sample, features: Features) -> float:
        """Cosine distance, 0 to 2, of `features` (D, unit length) of `sample` from the last final's nearest picture.

        Infinite where there is none to compare with: the first sample, another epoch, or a final older than
        `refresh`.
        """
        final = self._finals.get(sample.stream)
        if (
            final is None
            or final.epoch != sample.epoch
            or sample.start - final.start >= self.options.refresh
            or final.views[0].shape != features.shape
        ):
            return float("inf")
        return max(0.0, 1.0 - max(float(np.dot(view, features)) for view in final.views))

    def is_still(self, distance: float) -> bool:
        """Whether a picture at `distance` shows what the last final says."""
        return distance < self.options.threshold

    def is_news(self, distance: float) -> bool:
        """Whether a picture at `distance` is surely another scene, so that its text may be shown as it comes."""
        return distance >= self.options.near * self.options.threshold

    def said(self, sample: Sample) -> str:
        """What the last final of this stream and epoch says; empty where the gate is open or there is none."""
        final = self._finals.get(sample.stream)
        known = final is not None and final.epoch == sample.epoch and self.options.threshold > 0
        return final.text if final is not None and known else ""

    def stays(self, sample: Sample) -> None:
        """The picture of `sample` is still: the final is true, whatever the last sample said."""
        final = self._finals[sample.stream]
        final.seen, final.doubt = sample.start, None

    def judge(self, sample: Sample, features: Features, distance: float, text: str) -> Judgement:
        """What `text`, decoded for `sample` at `distance`, is; remembered for the next."""
        final = self._finals.get(sample.stream)
        if self.options.threshold == 0 or final is None or distance == float("inf"):
            return Judgement(Verdict.NEWS)
        period, final.seen = sample.start - final.seen, sample.start
        doubt, final.doubt = final.doubt, None
        if content(text) == content(final.text):
            final.views.append(features)
            if len(final.views) > VIEWS:
                del final.views[1]
            return Judgement(Verdict.SAME)
        if self.is_news(distance) or period > self.options.patience:
            return Judgement(Verdict.NEWS)
        if doubt is None:
            final.doubt = (text, sample)
            return Judgement(Verdict.DOUBTFUL)
        earlier, first = doubt
        return Judgement(Verdict.NEWS, first if content(earlier) == content(text) else None)

    def settle(self, sample: Sample, features: Features, text: str, *, first: Sample | None = None) -> None:
        """A final was published for `sample`; `first` as `judge` gave it."""
        self._finals[sample.stream] = _Final(text, sample.epoch, (first or sample).start, [features], sample.start)

    def forget(self, stream: str) -> None:
        self._finals.pop(stream, None)


def content(text: str) -> tuple[str, ...]:
    """The words of `text` that carry its meaning, in order, lower-case."""
    return tuple(word for word in re.findall(r"[\w']+", text.lower()) if word not in _FILLERS)
