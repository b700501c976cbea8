"""`Schedule`: chooses which frames of a stream to caption."""

from __future__ import annotations

from streamcap.media.frame import Frame
from streamcap.media.timing.delay import DelayTracker

BACKLOG_SECONDS = 0.5


class Schedule:
    """One frame every `every` seconds of media time. Pure.

    Scheduled times lie on a grid, so jitter does not add up. Missed times are not made up for: after a stall, late
    frames (the backlog) are skipped until a current frame arrives, but for at most `every` seconds of arrival time.
    Of a source that decodes only some frames, the one nearest to a scheduled time is taken.

    Parameters:
        every: seconds.
    """

    def __init__(self, every: float) -> None:
        self.every = every
        self.missed = 0
        """Scheduled times for which no frame was taken."""
        self._epoch: int | None = None
        self._time = 0.0
        self._due = 0.0
        self._delay = DelayTracker()
        self._late_since: float | None = None
        self._next_every = every
        self._taken = 0.0

    def wait(self, frame: Frame) -> float:
        """Seconds of media time from `frame`, the newest, to the next scheduled time; negative: it has passed."""
        return self._due - frame.time

    def come_earlier(self, seconds: float) -> None:
        """Move the next scheduled time, and with it all later ones, by `seconds` once; below 0: later."""
        self._due -= seconds

    def change(self, every: float) -> None:
        """Use another interval from the next frame on, counted from the frame taken last. From any thread."""
        self._next_every = every

    def due(self, frame: Frame) -> bool:
        """Whether to caption this frame. Call it once for every frame, in order."""
        if frame.epoch != self._epoch or frame.time < self._time:
            self._restart(frame)
            return True
        self._time = frame.time
        if self.every != self._next_every:
            self.every = self._next_every
            self._due = self._taken + self.every
        late = self._is_late(frame)
        if frame.time < self._due - min(frame.spacing, self.every) / 2:
            return False
        if late:
            if self._late_since is None:
                self._late_since = frame.arrived
            if frame.arrived - self._late_since < self.every:
                return False
            # All frames are late now: accept the new delay.
            self._delay.restart(frame)
        self._late_since = None
        behind = frame.time - self._due
        self.missed += max(0, int(behind / max(self.every, frame.spacing)))
        self._due = frame.time + self.every if behind > self.every / 2 else self._due + self.every
        self._taken = frame.time
        return True

    def _restart(self, frame: Frame) -> None:
        self.every = self._next_every
        self._epoch, self._time, self._taken, self._due = frame.epoch, frame.time, frame.time, frame.time + self.every
        self._delay.restart(frame)
        self._late_since = None

    def _is_late(self, frame: Frame) -> bool:
        """Whether its delay exceeds the lowest delay by more than jitter."""
        return self._delay.excess(frame) > max(BACKLOG_SECONDS, self.every / 2)
