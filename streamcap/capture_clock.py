"""`CaptureClock`: the clock of a capture time."""

from __future__ import annotations

from typing import Literal

CaptureClock = Literal["rtcp", "arrival"]
"""`rtcp`: the camera's, from its sender reports. `arrival`: this machine's, when the frame arrived."""
