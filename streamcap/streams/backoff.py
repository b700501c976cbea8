"""`Backoff`: growing, jittered pauses between attempts."""

from __future__ import annotations

import random


class Backoff:
    """Pauses double from `min_seconds` to `max_seconds`. Jitter takes off up to half, so that cameras that dropped
    together do not reconnect together. Call `reset` after a success."""

    def __init__(self, min_seconds: float, max_seconds: float, rng: random.Random | None = None) -> None:
        self._min_seconds = min_seconds
        self._max_seconds = max_seconds
        self._rng = rng or random.Random()
        self._pause = min_seconds

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._pause
        self._pause = min(self._max_seconds, 2 * pause)
        return min(self._max_seconds, max(self._min_seconds, pause * self._rng.uniform(0.5, 1.0)))

    def reset(self) -> None:
        self._pause = self._min_seconds
