"""`WaitClock`: how long a source's thread has waited for the other side."""

from __future__ import annotations


class WaitClock:
    """One thread calls `begin` and `end`, any thread reads. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """The thread waits for data from now on."""
        self._since = now

    def end(self, now: float) -> None:
        """Data came."""
        since, self._since = self._since, None
        if since is not None:
            self._total += max(0.0, now - since)

    def total(self, now: float) -> float:
        """Seconds of all waits, the present one included."""
        return self._total + self.waiting_for(now)

    def waiting_for(self, now: float) -> float:
        """Seconds of the present wait; 0 if the thread works."""
        since = self._since
        return 0.0 if since is None else max(0.0, now - since)
