"""Outcomes of a sample: interim text, caption, unchanged, unconfirmed, or failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamcap.media.frame import Sample

if TYPE_CHECKING:
    from streamcap.engine.change_gate import Features


@dataclass(frozen=True, slots=True)
class Times:
    """Monotonic seconds at which the device thread finished each step."""

    taken: float
    encoded: float
    decoded: float


@dataclass(frozen=True, slots=True)
class Interim:
    """Text of a caption that is still being decoded."""

    sample: Sample
    text: str
    times: Times


@dataclass(frozen=True, slots=True)
class Captioned:
    """A final caption."""

    sample: Sample
    text: str
    logprob: float | None
    """None if the model does not tell."""
    times: Times
    first: Sample | None = None
    """The earlier sample with the same text, if this one confirmed it."""
    confidence: float | None = None
    """Probability, from 0 to 1, that the text is true; None if the model cannot say."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The newest final is still true. `decoded`: whether the sample was decoded to find out."""

    sample: Sample
    decoded: bool


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A new text for an image that barely changed: the next sample decides. Show nothing."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class Failed:
    """The model failed on this sample; the stream continues with the next one."""

    sample: Sample
    reason: str


Outcome = Interim | Captioned | Unchanged | Unconfirmed | Failed


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample of a remote model, embedded by a local one: the remote model answers with an outcome later."""

    sample: Sample
    features: Features
    """(D,) float32 of unit length, for the change gate."""
    times: Times
