"""What the engine says of a sample: text so far, a caption, nothing new, a doubt, or a failure."""

from __future__ import annotations

from dataclasses import dataclass

from streamcap.media.frame import Sample


@dataclass(frozen=True, slots=True)
class Times:
    """Monotonic seconds at which the device thread reached each point with a sample."""

    taken: float
    encoded: float
    decoded: float


@dataclass(frozen=True, slots=True)
class Interim:
    """The text so far; more comes."""

    sample: Sample
    text: str
    times: Times


@dataclass(frozen=True, slots=True)
class Captioned:
    """The finished text."""

    sample: Sample
    text: str
    logprob: float
    times: Times
    first: Sample | None = None
    """The earlier sample that said the same, where this one was waited for to bear it out."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The newest final is still true; `decoded` says whether it took a decode to know."""

    sample: Sample
    decoded: bool


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """It says something else, but the image has hardly moved: the next sample decides. Nothing is to be shown."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class Failed:
    """The model failed on this sample; the stream goes on with its next one."""

    sample: Sample
    reason: str


Outcome = Interim | Captioned | Unchanged | Unconfirmed | Failed
