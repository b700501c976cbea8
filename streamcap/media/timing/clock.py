"""`MediaClock`: turns presentation timestamps of a source into media time that never goes back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

JUMP_BACK_SECONDS = 1.0
"""A smaller step back is jitter and repaired; a larger one is a restart of the source's clock."""
JUMP_AHEAD_SECONDS = 10.0
"""A step ahead of the monotonic clock by more than this starts a new epoch."""
JUMP_FRAMES = 3
"""This many frames in a row must agree on a jump before a new epoch starts; a single frame is repaired."""
MAX_EPOCHS_A_MINUTE = 3
"""The timestamps of a source with more epochs are ignored."""
MAX_LEAD_SECONDS = 5.0
MAX_LAG_SECONDS = 15.0
"""How far media time may differ from arrival time. Cameras first send a buffer at once; networks delay."""
RATE_WINDOW_SECONDS = 2.0
_RATE_WINDOWS = 3
_RATE_OFF = 0.1
_RATE_ALIKE = 0.1
_STUCK_AFTER = 3
_FIRST_INTERVAL_SECONDS = Fraction(1, 25)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Media time of a frame: `time` = `pts * time_base` seconds, strictly increasing within `epoch`."""

    pts: int
    time_base: Fraction
    time: float
    epoch: int
    repaired: bool


class MediaClock:
    """Repairs missing, repeated and jittering timestamps; starts a new epoch where they jump or restart. Pure.

    Valid timestamps pass unchanged. Before the first timestamp (RTSP before the first sender report), time counts from
    0 by arrival; later timestamps continue from there in the same epoch.

    A live source whose timestamps run at a wrong rate, drift away from arrival, or keep jumping is timed by arrival
    from then on.

    Parameters:
        jump_ahead: seconds a timestamp may be ahead of the monotonic clock; None: no limit (a file is read at any
            speed).
        check_rate: whether to compare timestamps with arrival: frames arrive as they are captured.
        interval: seconds from a frame to the next one without a timestamp; None: the time between their arrivals.
    """

    def __init__(
        self,
        *,
        jump_ahead: float | None = JUMP_AHEAD_SECONDS,
        check_rate: bool = True,
        interval: Fraction | float | None = None,
    ) -> None:
        self.repaired = 0
        """Frames whose timestamp was missing, repeated or stepped back a little."""
        self.epochs = 0
        """Epochs after the first."""
        self.by_arrival = False
        """Whether the source's timestamps are ignored."""
        self._check_rate = check_rate and jump_ahead is not None
        self._jump_ahead = jump_ahead
        self._missing = interval
        self._base: Fraction | None = None
        self._last = 0
        self._last_arrived = 0.0
        self._interval = 1
        self._ticks_per_second = 1.0
        self._offset: int | None = None
        """Added to the source's timestamps; None before the first."""
        self._last_pts: int | None = None
        self._stuck = 0
        self._jump_pts: int | None = None
        """The timestamp of the last frame that jumped."""
        self._jumps = 0
        """Number of frames in a row that agree with it."""
        self._epochs_at: deque[float] = deque(maxlen=MAX_EPOCHS_A_MINUTE)
        self._anchor = (0, 0.0)
        """A media time of this epoch, and its arrival."""
        self._window = (0, 0.0)
        self._rates: deque[float] = deque(maxlen=_RATE_WINDOWS)

    def stamp(self, pts: int | None, time_base: Fraction, arrived: float) -> Stamp:
        """The media time of the next frame in presentation order; `arrived` in monotonic seconds."""
        if self._base is None:
            return self._begin(pts, time_base, arrived)
        if pts is not None and time_base != self._base:
            pts = round(pts * time_base / self._base)
        repaired = True
        if pts is None or self.by_arrival:
            at = self._by_arrival(arrived)
        else:
            if self._offset is None:
                self._offset = self._by_arrival(arrived) - pts
            at = pts + self._offset
            stuck = pts == self._last_pts
            self._stuck = self._stuck + 1 if stuck else 0
            self._last_pts = pts
            if self._stuck >= _STUCK_AFTER:
                # The source repeats one timestamp: ignore it.
                at = self._by_arrival(arrived)
                self._offset = at - pts
            elif self._jumped(at, arrived):
                if self._is_new_epoch(pts, arrived):
                    return self._next_epoch(pts, arrived)
                at = self._by_arrival(arrived)
            elif at <= self._last:
                self._jumps = 0
                # Before the expected next timestamp, so that the next frame needs no repair.
                at = self._last + (max(1, self._interval // 2) if stuck else 1)
            else:
                repaired = False
                self._jumps = 0
                if at - self._last <= self._ticks(JUMP_BACK_SECONDS):
                    self._interval = at - self._last
            if self._check_rate and self._has_drifted(at, arrived):
                self.by_arrival = repaired = True
                at = self._by_arrival(arrived)
        self.repaired += repaired
        return self._emit(at, arrived, repaired=repaired)

    def _begin(self, pts: int | None, time_base: Fraction, arrived: float) -> Stamp:
        self._base = time_base
        self._ticks_per_second = float(1 / time_base)
        self._interval = max(1, round(_FIRST_INTERVAL_SECONDS / time_base))
        self._last_pts = pts
        self._anchor = self._window = (0 if pts is None else pts, arrived)
        if pts is None:
            self.repaired += 1
            return self._emit(0, arrived, repaired=True)
        self._offset = 0
        return self._emit(pts, arrived, repaired=False)

    def _is_new_epoch(self, pts: int, arrived: float) -> bool:
        """Whether enough frames in a row agree on a jump. Too many epochs: time by arrival from now on."""
        passed = self._ticks(JUMP_BACK_SECONDS + max(0.0, arrived - self._last_arrived))
        agrees = self._jump_pts is not None and self._jumps > 0 and 0 < pts - self._jump_pts <= passed
        self._jump_pts, self._jumps = pts, self._jumps + 1 if agrees else 1
        if self._jumps < JUMP_FRAMES:
            return False
        often = len(self._epochs_at) == MAX_EPOCHS_A_MINUTE and arrived - self._epochs_at[0] < 60.0
        if often and self._check_rate:
            self.by_arrival = True
            return False
        return True

    def _has_drifted(self, at: int, arrived: float) -> bool:
        """Whether timestamps run at a wrong rate, or are too far from arrival."""
        lead = self._lead(at, arrived)
        if lead > MAX_LEAD_SECONDS or lead < -MAX_LAG_SECONDS:
            return True
        passed = arrived - self._window[1]
        if passed < RATE_WINDOW_SECONDS:
            return False
        self._rates.append((at - self._window[0]) / self._ticks_per_second / passed)
        self._window = (at, arrived)
        if len(self._rates) < _RATE_WINDOWS or any(abs(rate - 1) <= _RATE_OFF for rate in self._rates):
            return False
        # A network that stalls and catches up gives a different rate in each window.
        return max(self._rates) - min(self._rates) <= _RATE_ALIKE * max(self._rates)

    def _lead(self, at: int, arrived: float) -> float:
        """Seconds by which media time is ahead of arrival; negative: behind."""
        return (at - self._anchor[0]) / self._ticks_per_second - (arrived - self._anchor[1])

    def _next_epoch(self, pts: int, arrived: float) -> Stamp:
        self.epochs += 1
        self._epochs_at.append(arrived)
        self._offset, self._jumps = 0, 0
        # A lead remains, because output time never goes back; a lag is reset.
        ahead = max(0.0, self._lead(self._last, self._last_arrived))
        self._anchor, self._window = (pts, arrived + ahead), (pts, arrived)
        self._rates.clear()
        return self._emit(pts, arrived, repaired=False)

    def _emit(self, at: int, arrived: float, *, repaired: bool) -> Stamp:
        self._last, self._last_arrived = at, arrived
        base = self._base or _FIRST_INTERVAL_SECONDS
        # Equal to float(at * base) to the last bit, but faster: this runs for every frame.
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
