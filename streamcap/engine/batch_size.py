"""`BatchSize`: how many samples a batch may have so that the newest does not wait for long."""

from __future__ import annotations

TARGET_SECONDS = 0.5


class BatchSize:
    """Halves towards the size that takes TARGET_SECONDS, doubles while batches are full and fast. For one thread."""

    def __init__(self, max_samples: int) -> None:
        self.limit = max_samples
        self._max_samples = max_samples

    def note(self, samples: int, seconds: float) -> None:
        """A batch of `samples` took `seconds`."""
        if seconds > TARGET_SECONDS:
            self.limit = max(1, min(self.limit, int(samples * TARGET_SECONDS / seconds)))
        elif samples >= self.limit and seconds < TARGET_SECONDS / 2:
            self.limit = min(self._max_samples, 2 * self.limit)
