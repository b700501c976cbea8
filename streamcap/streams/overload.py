"""`OverloadDetector`: whether captions are late because the machine is too slow, and how much less to ask of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A stream is late if its captions are this old, or this many intervals.
LATE_SECONDS = 3.0
LATE_INTERVALS = 3.0
# Time with late streams until the service counts as overloaded, and without until it no longer does.
BEGIN_SECONDS = 5.0
END_SECONDS = 10.0
# While streams are late, the interval between captions grows by this factor every so many seconds.
STEP_FACTOR = 1.5
STEP_SECONDS = 10.0
MAX_STRETCH = 8.0
# It shrinks by the same factor after so many seconds without late streams; twice as many after each relapse.
HOLD_SECONDS = 30.0
MAX_HOLD_SECONDS = 600.0
# The event loop was late by this much within the last seconds: the machine is overloaded before any stream is live.
LOOP_DELAY_SECONDS = 0.5
LOOP_MEMORY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """How late the captions of one live stream are, as far as this machine is the cause."""

    every: float
    """Seconds between captions, as configured."""
    lag: float
    """Seconds from a frame's arrival to its caption, with the time that frames wait to be decoded."""

    @property
    def late(self) -> bool:
        return self.lag > max(LATE_SECONDS, LATE_INTERVALS * self.every)


class OverloadDetector:
    """Pure; call `update` about once a second, on one thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.overloaded = False
        self.streams = 0
        """Live streams."""
        self.late = 0
        """Those whose captions are late."""
        self.lag = 0.0
        """Seconds of the latest one."""
        self.stretch = 1.0
        """Factor for the interval between captions of every stream; 1: as configured."""
        self._monotonic = monotonic
        self._loop_late_at: float | None = None
        self._late_since: float | None = None
        self._fresh_since: float | None = None
        self._step_at = 0.0
        self._hold = HOLD_SECONDS
        self._shrunk_at: float | None = None

    def update(self, loads: Sequence[StreamLoad]) -> str:
        """Take in the loads of all live streams. Returns one line for the log if the overload began or ended."""
        now = self._monotonic()
        self.streams, self.late = len(loads), sum(load.late for load in loads)
        self.lag = max((load.lag for load in loads), default=0.0)
        return self._late(now) if self.late else self._fresh(now)

    def note_loop_delay(self, seconds: float) -> None:
        """The event loop ran a task `seconds` later than it was due."""
        if seconds >= LOOP_DELAY_SECONDS:
            self._loop_late_at = self._monotonic()

    @property
    def is_machine_slow(self) -> bool:
        """Whether what takes long now may take long because of this machine: also before any stream is live."""
        late_at = self._loop_late_at
        return self.overloaded or (late_at is not None and self._monotonic() - late_at < LOOP_MEMORY_SECONDS)

    @property
    def late_share(self) -> float:
        return self.late / self.streams if self.streams else 0.0

    def describe(self) -> str:
        """The overload in a few words; empty if there is none."""
        if not self.overloaded:
            return ""
        return f"captions are up to {self.lag:.0f} s late on {self.late} of {self.streams} streams"

    def _late(self, now: float) -> str:
        self._fresh_since = None
        if self._late_since is None:
            self._late_since = now
        if now - self._late_since < BEGIN_SECONDS:
            return ""
        if self._shrunk_at is not None and now - self._shrunk_at < 2 * self._hold:
            self._hold = min(2 * self._hold, MAX_HOLD_SECONDS)
        self._shrunk_at = None
        if now >= self._step_at:
            self.stretch = min(self.stretch * STEP_FACTOR, MAX_STRETCH)
            self._step_at = now + STEP_SECONDS
        if self.overloaded:
            return ""
        self.overloaded = True
        return (
            f"overloaded: {self.describe()}: this machine is too slow for them. Captions now come less often. Use "
            "fewer cameras, a longer --every, --decode keyframes, cameras of a lower resolution, or a faster machine"
        )

    def _fresh(self, now: float) -> str:
        self._late_since = None
        if self._fresh_since is None:
            self._fresh_since = now
        fresh = now - self._fresh_since
        if self.stretch > 1 and fresh >= self._hold:
            self.stretch = max(1.0, self.stretch / STEP_FACTOR)
            if self.stretch < 1.01:  # the factors were not exact
                self.stretch = 1.0
            self._fresh_since, self._shrunk_at = now, now
        if not self.overloaded or fresh < END_SECONDS:
            return ""
        self.overloaded = False
        slower = f"; captions still come {self.stretch:.3g} times less often, for now" if self.stretch > 1 else ""
        return f"no longer overloaded: captions are in time on all {self.streams} streams{slower}"
