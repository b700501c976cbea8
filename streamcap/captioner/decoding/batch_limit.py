"""How much of a device's memory a batch may take."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Done = TypeVar("Done")

# How long fewer rows are taken after the memory ran out.
GROW_SECONDS = 60.0
MAX_GROW_SECONDS = 3600.0


class BatchLimit:
    """The most rows that go through a device side by side: halved whenever its memory runs out, and doubled again, up
    to where it began, when it has not run out for a while. Each time that was too soon, the while is twice as long."""

    def __init__(
        self, max_rows: int, rows: str, device: torch.device, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_rows = max_rows
        self._row_limit, self._device = rows, device
        self._full = max_rows
        self._monotonic = monotonic
        self._grow_at = 0.0
        self._grow_seconds = GROW_SECONDS

    def run(self, count: int, work: Callable[[int], Done], *, min_rows: int = 1) -> Done:
        """What `work` makes of `count` rows, told how many to take side by side; again with fewer where they were too
        many. Raises torch.OutOfMemoryError where `min_rows` rows are."""
        if self.max_rows < self._full and self._monotonic() >= self._grow_at:
            self.max_rows = min(self._full, 2 * self.max_rows)
            self._grow_at = self._monotonic() + self._grow_seconds
            log.info("trying %d %s side by side on %s again", self.max_rows, self._row_limit, self._device)
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
                log.warning(
                    "out of memory on %s; at most %d %s side by side", self._device, self.max_rows, self._row_limit
                )
            # Not before the exception is gone, which holds the batch that failed; its recorded steps hold each other.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
