"""`FrameDemand`: which frames of a source are wanted."""

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
