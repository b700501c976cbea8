"""`Backoff`: growing, jittered pauses between tries."""

from __future__ import annotations

import random


class Backoff:
    """Pauses double from `first` to `most` seconds; each is drawn from its upper half, so that cameras that dropped
    together do not come back together. `reset` after a success."""

    def __init__(self, first: float, most: float, rng: random.Random | None = None) -> None:
        self._first_counters = first
        self._most = most
        self._rng = rng or random.Random()
        self._pause = first

    def next(self) -> float:
        """The seconds to wait before the next try."""
        pause = self._pause
        self._pause = min(self._most, 2 * pause)
        return min(self._most, max(self._first_counters, pause * self._rng.uniform(0.5, 1.0)))

    def reset(self) -> None:
        self._pause = self._first_counters
