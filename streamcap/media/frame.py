"""`Frame`, which a source yields, and `Sample`, which the engine captions."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from av import VideoFrame

from streamcap.capture_clock import CaptureClock

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame with its times, unconverted.

    `video_frame` stays in the decoder's pixel format: most frames are never sampled, and converting all would cost more
    than decoding them.
    """

    video_frame: VideoFrame
    pts: int
    """Timestamp in units of `time_base`, from the source or repaired."""
    time_base: Fraction
    time: float
    """Media time in seconds: `pts * time_base`. Never decreases within an epoch."""
    epoch: int
    """Counts from 0 within one connection; a jump or restart of the source's clock starts a new epoch."""
    arrived: float
    """Monotonic clock (`time.monotonic`), seconds: when its last packet was read."""
    captured_at: float
    """Wall clock, seconds since 1970 UTC, when the camera captured it. `captured_at_source` names the clock."""
    captured_at_source: CaptureClock
    spacing: float = 0.0
    """Seconds of media time between the frames of a source that decodes only some; 0: it decodes all."""
    sample_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height; 1 for square pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; may change from one frame to the next."""
        return self.video_frame.width, self.video_frame.height


@dataclass(frozen=True, slots=True)
class SampledImage:
    """One image for a remote model: uint8 RGB, (H, W, 3)."""

    pixels: Pixels
    age: float
    """Seconds of media time before the sample's newest frame."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled moment of one stream, converted and resized: what the engine captions."""

    stream: str
    pixels: Pixels
    """uint8 RGB, (H, W, 3), or (T, H, W, 3) for a clip model, oldest first."""
    epoch: int
    """Epoch of the stream: counts connections and epochs of the source."""
    start: float
    """Seconds on the stream's output timeline, which never goes back (see `media.timing.timeline`)."""
    captured_at: float
    captured_at_source: CaptureClock
    arrived: float
    """Monotonic seconds: arrival of the newest frame; latency starts here."""
    submitted: float
    """Monotonic seconds: when it was converted and submitted to the engine."""
    model: str = ""
    """Name of the model that captions it."""
    encoder: str | None = None
    """Name of the local model that embeds `pixels`, if that is not `model`: of a remote model."""
    prompt: str | None = None
    """For models that take one; None: the model's own."""
    images: tuple[SampledImage, ...] = ()
    """For a remote model, oldest first."""
    notice: str = ""
    """Why another model captions instead of the stream's own; empty if none does."""
