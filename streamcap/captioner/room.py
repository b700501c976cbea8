"""How much of a device's memory a batch may take."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Done = TypeVar("Done")


class Room:
    """The most rows that go through a device side by side; halved whenever its memory runs out, for good."""

    def __init__(self, most: int, rows: str, device: torch.device) -> None:
        self.most = most
        self._rows, self._device = rows, device

    def run(self, count: int, work: Callable[[int], Done], *, least: int = 1) -> Done:
        """What `work` makes of `count` rows, told how many to take side by side; again with fewer where they were too
        many. Raises torch.OutOfMemoryError where `least` rows are."""
        while True:
            try:
                return work(self.most)
            except torch.OutOfMemoryError:
                taken = min(self.most, count)
                if taken <= least:
                    raise
                self.most = max(least, taken // 2)
                log.warning("out of memory on %s; at most %d %s side by side", self._device, self.most, self._rows)
            # Not before the exception is gone, which holds the batch that failed; its recorded steps hold each other.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
