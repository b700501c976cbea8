"""`Pacer`: plays a finite source in real time."""

from __future__ import annotations

from collections.abc import Callable

_LATE_SECONDS = 0.5


class Pacer:
    """Computes how long to wait until a frame is due. Pure. After a stall, time continues without a burst.

    Parameters:
        monotonic: clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._epoch: int | None = None
        self._offset = 0.0

    def wait(self, epoch: int, time: float) -> float:
        """Seconds from now until the frame at media `time` is due: 0 or more."""
        now = self._monotonic()
        ahead = time + self._offset - now
        if epoch != self._epoch or ahead < -_LATE_SECONDS:
            self._epoch = epoch
            self._offset = now - time
            return 0.0
        return max(0.0, ahead)
