"""`BatchLimit`: the batch size that fits a device's memory."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Done = TypeVar("Done")

GROW_SECONDS = 60.0
"""Time after an out-of-memory error until a larger batch is tried; doubled after each further error."""
MAX_GROW_SECONDS = 3600.0


class BatchLimit:
    """The maximum batch size on a device.

    An out-of-memory error halves it. After a wait it doubles again, up to the initial value. Every further error
    doubles the wait.
    """

    def __init__(
        self, max_rows: int, unit: str, device: torch.device, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """unit: what a row is, in the plural, for the log."""
        self.max_rows = max_rows
        self._unit, self._device = unit, device
        self._full = max_rows
        self._monotonic = monotonic
        self._grow_at = 0.0
        self._grow_seconds = GROW_SECONDS

    def run(self, count: int, work: Callable[[int], Done], *, min_rows: int = 1) -> Done:
        """The result of `work(max_rows)` on `count` rows, retried with fewer rows when memory runs out.

        Raises torch.OutOfMemoryError if even `min_rows` rows are too many.
        """
        if self.max_rows < self._full and self._monotonic() >= self._grow_at:
            self.max_rows = min(self._full, 2 * self.max_rows)
            self._grow_at = self._monotonic() + self._grow_seconds
            log.info("trying batches of %d %s on %s again", self.max_rows, self._unit, self._device)
        while True:
            try:
                return work(self.max_rows)
            except torch.OutOfMemoryError:
                used = min(self.max_rows, count)
                if used <= min_rows:
                    raise
                self.max_rows = max(min_rows, used // 2)
                self._grow_at = self._monotonic() + self._grow_seconds
                self._grow_seconds = min(2 * self._grow_seconds, MAX_GROW_SECONDS)
                log.warning("out of memory on %s; using batches of %d %s", self._device, self.max_rows, self._unit)
            # Only here: the exception refers to the batch that failed, and its CUDA graphs form a reference cycle.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
