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

    def __post_init__(self) -> None:
        if not self.open_timeout > 0 or not self.read_timeout > 0:
            raise InputError(f"timeouts {self.open_timeout:g} and {self.read_timeout:g}: seconds, above 0")
