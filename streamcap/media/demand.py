"""`FrameDemand`: which frames of a source are wanted. `FrameChoice`: which it could give instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Decode = Literal["auto", "all", "keyframes"]
"""auto: what captions need, as cheaply as the camera allows; all: every frame; keyframes: keyframes alone."""

Hwaccel = Literal["auto", "none", "cuda", "vaapi", "qsv", "videotoolbox", "d3d11va", "vulkan"]
"""Hardware that decodes. auto: the first of them that works here; none: software."""


@dataclass(slots=True)
class FrameDemand:
    """Shared by a stream, which writes, and its source, which reads. Each field may be set from any thread."""

    decode: Decode = "auto"
    every: float = 0.0
    """Seconds of media time between the frames that are captioned; 0: every frame is wanted."""
    viewers: int = 0
    """People who watch the video: they want every frame."""
    wait: float = 0.0
    """Seconds of media time from the newest frame to the next one that is captioned. Set while the source yields."""
    after: float = 0.0
    """Where keyframes alone would do: how many seconds after a keyframe the captioned frame is to come."""


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """The frames that a source could give instead of the newest one. It has no choice where it decodes all."""

    keyframes: float = 0.0
    """Seconds between keyframes, one of which costs as little as another; 0: no choice."""
    frames: float = 0.0
    """Seconds between frames. One that follows a keyframe costs the decoding of all up to it; 0: it cannot be given."""
