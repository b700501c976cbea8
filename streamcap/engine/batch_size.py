"""`BatchSize`: how many of the waiting samples go into the next batch."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

TARGET_SECONDS = 0.5
# While a batch is less than this share of what waits, it may take longer: small batches cost more time for each sample.
MIN_SHARE = 0.25
MAX_SECONDS = 2.0
# Batches that are remembered, and those needed before the costs are known.
_TIMINGS = 9
_MIN_TIMINGS = 3
# All that waits is taken so often at least, to measure what large batches cost now.
_MEASURE_EVERY = 16


class BatchSize:
    """Chooses the batches with the lowest mean latency, as long as the model keeps up; else large ones. For one thread.

    The time of a batch is taken as `fixed + each * samples`, both measured. A CPU that checks a right draft is bound by
    arithmetic: `fixed` is small, and samples that wait together are captioned one by one, so that only the last one
    waits for all others. A GPU, or a CPU that reads the weights for each token, takes them together.

    `limit` shrinks towards the size that takes TARGET_SECONDS, and doubles while batches are full and fast.
    """

    def __init__(self, max_samples: int) -> None:
        self.limit = max_samples
        self._max_samples = max_samples
        self._single: deque[float] = deque(maxlen=_TIMINGS)
        self._several: deque[tuple[int, float]] = deque(maxlen=_TIMINGS)
        self._split = 0

    def choose(self, waiting: int) -> int:
        """How many of `waiting` samples to take next."""
        whole = min(waiting, self.limit)
        if whole < 2 or len(self._single) < _MIN_TIMINGS or len(self._several) < _MIN_TIMINGS:
            return whole
        alone = median(self._single)
        if waiting * alone > TARGET_SECONDS:
            return whole
        each = median((seconds - alone) / (samples - 1) for samples, seconds in self._several)
        fixed = alone - each
        if each <= 0:
            return whole
        # k equal batches of n samples end after (k + 1) / 2 * (fixed + each * n) seconds on average; k = waiting / n.
        best = math.sqrt(waiting * max(0.0, fixed) / each)
        batches = max(1, round(waiting / max(1.0, best)))
        size = min(whole, -(-waiting // batches))
        if size == whole:
            return whole
        self._split += 1
        return whole if self._split % _MEASURE_EVERY == 0 else size

    def note(self, samples: int, seconds: float, waiting: int = 0) -> None:
        """A batch of `samples` took `seconds`, when `waiting` samples waited, itself included."""
        if samples == 1:
            self._single.append(seconds)
        elif samples > 1:
            self._several.append((samples, seconds))
        target = TARGET_SECONDS if samples >= MIN_SHARE * waiting else MAX_SECONDS
        if seconds > target:
            self.limit = max(1, min(self.limit, int(samples * target / seconds)))
        elif samples >= self.limit and seconds < target / 2:
            self.limit = min(self._max_samples, 2 * self.limit)
