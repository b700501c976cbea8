"""`SourceOptions`: options for opening and reading sources."""

from __future__ import annotations

from dataclasses import dataclass

from streamcap.errors import InputError
from streamcap.media.demand import Hwaccel
from streamcap.media.sources.address import HostScope


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Times in seconds."""

    open_timeout: float = 10.0
    read_timeout: float = 5.0
    """A source without data for this long is lost."""
    hwaccel: Hwaccel = "none"
    """Hardware decoder to use, if there is one."""
    realtime: bool = True
    """Play finite sources in real time, else as fast as possible."""
    poll_interval: float = 1.0
    """Most seconds between two requests to a URL that returns a single image."""
    scope: HostScope = HostScope.ANY
    """The hosts that the URL may name and lead to."""
    max_pixels: int = 50_000_000
    """Larger frames are not decoded: 8192×6144 takes 75 MB, and untrusted sources may send any size."""

    def __post_init__(self) -> None:
        if not self.poll_interval > 0:
            raise InputError(f"poll_interval {self.poll_interval:g}: seconds, above 0")
        if not self.open_timeout > 0 or not self.read_timeout > 0:
            raise InputError(f"timeouts {self.open_timeout:g} and {self.read_timeout:g}: seconds, above 0")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels {self.max_pixels}: at least 1")
