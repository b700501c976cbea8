"""`MediaClock`: presentation timestamps as cameras give them become a time that only goes forward."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

JUMP_BACK_SECONDS = 1.0
"""Timestamps that fall back by no more than this are jitter, and repaired; by more, the source's clock began again."""
JUMP_AHEAD_SECONDS = 10.0
"""A leap ahead of so much more than has passed on our own clock is another epoch."""
_STUCK_AFTER = 3
_FIRST_INTERVAL_SECONDS = Fraction(1, 25)


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a frame is: `time` = `pts * time_base` seconds, strictly increasing within `epoch`."""

    pts: int
    time_base: Fraction
    time: float
    epoch: int
    repaired: bool


class MediaClock:
    """Repairs missing, repeated and jittering timestamps; opens a new epoch where they jump or begin again. Pure.

    What is sound passes unchanged. Until a source names its first timestamp (RTSP before the first sender report) time
    is counted from 0 by arrival, and the named ones then go on from there: no epoch is opened for that.

    Parameters:
        jump_ahead: seconds a timestamp may lead the time that has passed on our own clock; None: any (a file, which is
            read as fast as it is played).
        interval: seconds by which a frame without a timestamp follows the last; None: as long as it took to come.
    """

    def __init__(
        self, *, jump_ahead: float | None = JUMP_AHEAD_SECONDS, interval: Fraction | float | None = None
    ) -> None:
        self.repaired = 0
        """Frames whose timestamp was missing, repeated or fell back a little."""
        self.epochs = 0
        """How many were opened after the first."""
        self._jump_ahead = jump_ahead
        self._missing = interval
        self._base: Fraction | None = None
        self._last = 0
        self._last_arrived = 0.0
        self._interval = 1
        self._ticks_per_second = 1.0
        self._offset: int | None = None
        """Added to what the source says; None until it says something."""
        self._said: int | None = None
        self._stuck = 0

    def stamp(self, pts: int | None, time_base: Fraction, arrived: float) -> Stamp:
        """The time of the next frame in order of presentation; `arrived` in monotonic seconds."""
        if self._base is None:
            return self._begin(pts, time_base, arrived)
        if pts is not None and time_base != self._base:
            pts = round(pts * time_base / self._base)
        repaired = True
        if pts is None:
            at = self._by_arrival(arrived)
        else:
            if self._offset is None:
                self._offset = self._by_arrival(arrived) - pts
            at = pts + self._offset
            stuck = pts == self._said
            self._stuck = self._stuck + 1 if stuck else 0
            self._said = pts
            if self._stuck >= _STUCK_AFTER:
                # It says the same for ever: what it says is nothing.
                at = self._by_arrival(arrived)
                self._offset = at - pts
            elif self._jumped(at, arrived):
                return self._next_epoch(pts, arrived)
            elif at <= self._last:
                # Between the last and where the next is due, so that the next needs no repair.
                at = self._last + (max(1, self._interval // 2) if stuck else 1)
            else:
                repaired = False
                if at - self._last <= self._ticks(JUMP_BACK_SECONDS):
                    self._interval = at - self._last
        self.repaired += repaired
        return self._emit(at, arrived, repaired=repaired)

    def _begin(self, pts: int | None, time_base: Fraction, arrived: float) -> Stamp:
        self._base = time_base
        self._ticks_per_second = float(1 / time_base)
        self._interval = max(1, round(_FIRST_INTERVAL_SECONDS / time_base))
        self._said = pts
        if pts is None:
            self.repaired += 1
            return self._emit(0, arrived, repaired=True)
        self._offset = 0
        return self._emit(pts, arrived, repaired=False)

    def _next_epoch(self, pts: int, arrived: float) -> Stamp:
        self.epochs += 1
        self._offset = 0
        return self._emit(pts, arrived, repaired=False)

    def _emit(self, at: int, arrived: float, *, repaired: bool) -> Stamp:
        self._last, self._last_arrived = at, arrived
        base = self._base or _FIRST_INTERVAL_SECONDS
        # The same as float(at * base), to the last bit, and quicker: this runs for every frame.
        return Stamp(at, base, at * base.numerator / base.denominator, self.epochs, repaired)

    def _jumped(self, at: int, arrived: float) -> bool:
        if at < self._last - self._ticks(JUMP_BACK_SECONDS):
            return True
        if self._jump_ahead is None:
            return False
        return at - self._last > self._ticks(self._jump_ahead + max(0.0, arrived - self._last_arrived))

    def _by_arrival(self, arrived: float) -> int:
        if self._missing is not None:
            return self._last + max(1, round(Fraction(self._missing) / (self._base or 1)))
        return self._last + max(1, self._ticks(max(0.0, arrived - self._last_arrived)))

    def _ticks(self, seconds: float) -> int:
        return int(seconds * self._ticks_per_second)
