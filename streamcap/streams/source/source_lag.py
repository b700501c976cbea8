"""`SourceLag`: how far the frames of a source are behind, and whether this machine or the other side is the cause."""

from __future__ import annotations

from collections import deque

from streamcap.media.frame import Frame
from streamcap.media.timing.delay import DelayTracker

# A thread that waited for data for less than this share of the time has more work than it can do.
_MIN_WAITING_SHARE = 0.3
# Time over which that share is taken.
WINDOW_SECONDS = 2.0


class SourceLag:
    """Of one connection. Pure; `note` is called on the source's thread, the rest on one other."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """By how much the newest frame was read later than the frames of the lowest delay."""
        self._epoch: int | None = None
        self._delay = DelayTracker()
        self._waits: deque[tuple[float, float]] = deque()

    def note(self, frame: Frame) -> None:
        """The next frame was read."""
        if frame.epoch != self._epoch:
            self._epoch = frame.epoch
            self._delay.restart(frame)
        self.seconds = self._delay.excess(frame)

    def note_waits(self, now: float, waited: float) -> None:
        """The thread has waited `waited` seconds for data since its start. Call it a few times a second."""
        self._waits.append((now, waited))
        while len(self._waits) > 2 and now - self._waits[1][0] >= WINDOW_SECONDS:
            self._waits.popleft()

    def is_ours(self) -> bool:
        """Whether the thread hardly waited for data in the last seconds: this machine is too slow, not the camera."""
        if not self._waits:
            return False
        (began, before), (now, waited) = self._waits[0], self._waits[-1]
        # A shorter time says little.
        return now - began >= WINDOW_SECONDS / 2 and waited - before < _MIN_WAITING_SHARE * (now - began)
