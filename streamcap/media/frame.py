"""What a source yields (`Frame`) and what the engine is asked to caption (`Sample`)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from av import VideoFrame

Pixels = npt.NDArray[np.uint8]
CaptureClock = Literal["rtcp", "arrival"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame with its clocks, unconverted.

    `video_frame` stays in the decoder's pixel format: most frames are never sampled, and converting them all would cost
    more than decoding them.
    """

    video_frame: VideoFrame
    pts: int
    """In units of `time_base`, as the source gave it or as it was repaired."""
    time_base: Fraction
    time: float
    """Media time in seconds: `pts * time_base`. Never falls within one epoch."""
    epoch: int
    """Counts from 0 within one opening of the source; grows where the source's clock jumped or began again."""
    arrived: float
    """Monotonic clock (`time.monotonic`), seconds, when the packet that completed it had been read."""
    captured_at: float
    """Wall clock, seconds since 1970 UTC, when the camera saw it (`captured_at_source` says by whose clock)."""
    captured_at_source: CaptureClock
    sample_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height; 1 for square pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; may change from one frame to the next."""
        return self.video_frame.width, self.video_frame.height


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled moment of one stream, converted and resized: what the engine captions."""

    stream: str
    pixels: Pixels
    """uint8 RGB, (H, W, 3), or (T, H, W, 3) for a clip model, oldest first."""
    epoch: int
    """The stream's own epoch: grows with every reconnection and with every epoch of the source."""
    start: float
    """Seconds on the stream's output timeline, which never goes back (see `captions.timeline`)."""
    captured_at: float
    captured_at_source: CaptureClock
    arrived: float
    """Monotonic seconds: the newest frame's arrival, where latency starts."""
    submitted: float
    """Monotonic seconds: conversion done, handed to the engine."""
