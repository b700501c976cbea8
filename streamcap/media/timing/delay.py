"""`DelayTracker`: how much later than usual the frames of a source arrive."""

from __future__ import annotations

from streamcap.media.frame import Frame

_DRIFT = 0.002
"""A camera's clock may run slower than this machine's by this share before its frames count as late."""


class DelayTracker:
    """Compares each frame's delay (arrival minus media time) with the lowest one so far. Pure."""

    def __init__(self) -> None:
        self._lowest = 0.0
        self._arrived = 0.0

    def restart(self, frame: Frame) -> None:
        """Take the delay of `frame` as the lowest one: the first frame of an epoch, or one that is late for good."""
        self._lowest, self._arrived = frame.arrived - frame.time, frame.arrived

    def excess(self, frame: Frame) -> float:
        """Seconds by which `frame`, the next one, arrived later than at the lowest delay."""
        delay = frame.arrived - frame.time
        self._lowest = min(delay, self._lowest + _DRIFT * max(0.0, frame.arrived - self._arrived))
        self._arrived = frame.arrived
        return delay - self._lowest
