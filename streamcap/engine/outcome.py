"""Outcomes of a sample: interim text, caption, unchanged, unconfirmed, or failed."""

from __future__ import annotations

from dataclasses import dataclass

from streamcap.media.frame import Sample


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
    logprob: float
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
