"""`BatchSize`: how many samples a batch may have so that the newest does not wait for long."""

from __future__ import annotations

TARGET_SECONDS = 0.5
# While a batch is less than this share of what waits, it may take longer: small batches cost more time for each sample.
MIN_SHARE = 0.25
MAX_SECONDS = 2.0


class BatchSize:
    """Shrinks towards the size that takes TARGET_SECONDS, doubles while batches are full and fast. For one thread."""

    def __init__(self, max_samples: int) -> None:
        self.limit = max_samples
        self._max_samples = max_samples

    def note(self, samples: int, seconds: float, waiting: int = 0) -> None:
        """A batch of `samples` took `seconds`, when `waiting` samples waited, itself included."""
        target = TARGET_SECONDS if samples >= MIN_SHARE * waiting else MAX_SECONDS
        if seconds > target:
            self.limit = max(1, min(self.limit, int(samples * target / seconds)))
        elif samples >= self.limit and seconds < target / 2:
            self.limit = min(self._max_samples, 2 * self.limit)
