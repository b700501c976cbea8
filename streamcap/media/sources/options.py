"""`SourceOptions`: how sources are opened and read."""

from __future__ import annotations

from dataclasses import dataclass

from streamcap.errors import InputError


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Times in seconds."""

    open_timeout: float = 10.0
    read_timeout: float = 5.0
    """Without data for so long a source is lost."""
    keyframes_only: bool = False
    """Decode keyframes alone: about an eighth of the cost, and as many frames as the camera sends keyframes."""
    realtime: bool = True
    """Play what is finite as if it were live: a second of video in a second. Otherwise as fast as it is read."""
    poll_interval: float = 1.0
    """Between two requests of an address that answers with a single JPEG."""
    max_pixels: int = 50_000_000
    """Larger frames are not decoded: one of 8192×6144 takes 75 MB, and a stranger may send any size."""

    def __post_init__(self) -> None:
        if not self.poll_interval > 0:
            raise InputError(f"poll_interval {self.poll_interval:g}: seconds, above 0")
        if not self.open_timeout > 0 or not self.read_timeout > 0:
            raise InputError(f"timeouts {self.open_timeout:g} and {self.read_timeout:g}: seconds, above 0")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels {self.max_pixels}: at least 1")
