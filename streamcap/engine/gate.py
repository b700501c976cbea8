"""`Gate`: has the picture moved since the last final caption, and is a new sentence news?

Neighbouring systems resend one text on every frame, or rephrase a still scene for ever; a viewer wants neither. But a
real arrival must never be hidden: when in doubt, decode; when decoded, only the same words count as the same sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

# Calibrated on drawn scenes and real clips: see docs/gate.md.
DEFAULT_THRESHOLD = 0.02

# Words that carry no news by themselves: "a dog is running" and "the dog running" say the same.
_FILLERS = frozenset({"a", "an", "the", "is", "are", "was", "were", "there", "that", "this", "some"})


@dataclass(frozen=True, slots=True)
class GateOptions:
    threshold: float
    """Cosine distance from the last final's picture below which nothing has changed; 0 opens the gate for good: every
    sample becomes a caption."""
    refresh: float = 60.0
    """Seconds after which a final is decoded anew, whatever the picture did."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 2:
            raise ValueError(f"gate threshold {self.threshold}: a cosine distance from 0 up to 2")
        if self.refresh <= 0:
            raise ValueError(f"gate refresh {self.refresh} s: above 0")


@dataclass(slots=True)
class _Final:
    features: Features
    text: str
    epoch: int
    start: float


class Gate:
    """The last final of every stream, and how far a picture is from it."""

    def __init__(self, options: GateOptions) -> None:
        self.options = options
        self._finals: dict[str, _Final] = {}

    def distance(self, stream: str, epoch: int, start: float, features: Features) -> float:
        """Cosine distance of `features` (D, unit length) from the last final's, 0 to 2.

        Infinite where there is none to compare with: the first sample, another epoch, or a final older than
        `refresh`.
        """
        final = self._finals.get(stream)
        if (
            final is None
            or final.epoch != epoch
            or start - final.start >= self.options.refresh
            or final.features.shape != features.shape
        ):
            return float("inf")
        return max(0.0, 1.0 - float(np.dot(final.features, features)))

    def is_still(self, distance: float) -> bool:
        """Whether a picture at `distance` shows what the last final says."""
        return distance < self.options.threshold

    def is_news(self, distance: float) -> bool:
        """Whether a picture at `distance` is surely another one, so that its text may be shown as it comes."""
        return distance >= 2 * self.options.threshold

    def repeats(self, stream: str, distance: float, text: str) -> bool:
        """Whether `text`, decoded for a picture at `distance`, only says again what the last final says."""
        final = self._finals.get(stream)
        open_gate = self.options.threshold == 0
        return not open_gate and final is not None and distance < float("inf") and content(text) == content(final.text)

    def settle(self, stream: str, epoch: int, start: float, features: Features, text: str) -> None:
        """A final was published."""
        self._finals[stream] = _Final(features, text, epoch, start)

    def move(self, stream: str, features: Features) -> None:
        """The picture has moved but its sentence has not: compare with this picture from now on."""
        final = self._finals.get(stream)
        if final is not None:
            final.features = features

    def forget(self, stream: str) -> None:
        self._finals.pop(stream, None)


def content(text: str) -> tuple[str, ...]:
    """The words of `text` that carry its meaning, in order, lower-case."""
    return tuple(word for word in re.findall(r"[\w']+", text.lower()) if word not in _FILLERS)
