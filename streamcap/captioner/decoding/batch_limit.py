"""How much of a device's memory a batch may take."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Done = TypeVar("Done")


class BatchLimit:
    """The most rows that go through a device side by side; halved whenever its memory runs out, for good."""

    def __init__(self, max_rows: int, rows: str, device: torch.device) -> None:
        self.max_rows = max_rows
        self._row_limit, self._device = rows, device

    def run(self, count: int, work: Callable[[int], Done], *, min_rows: int = 1) -> Done:
        """What `work` makes of `count` rows, told how many to take side by side; again with fewer where they were too
        many. Raises torch.OutOfMemoryError where `min_rows` rows are."""
        while True:
            try:
                return work(self.max_rows)
            except torch.OutOfMemoryError:
                used = min(self.max_rows, count)
                if used <= min_rows:
                    raise
                self.max_rows = max(min_rows, used // 2)
                log.warning(
                    "out of memory on %s; at most %d %s side by side", self._device, self.max_rows, self._row_limit
                )
            # Not before the exception is gone, which holds the batch that failed; its recorded steps hold each other.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
