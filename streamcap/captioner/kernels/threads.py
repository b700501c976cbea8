"""How many threads the kernels use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_MODEL = 40_000_000
"""Parameters below which one image's layers are too short to share: threads that wait for the next one keep a core
busy. `mini` has 11 million, CLIP ViT-B/32 with GPT-2 124M 212 million."""

_limit = threading.local()


def num_threads() -> int:
    """torch's number of threads, or fewer inside `limited`."""
    return min(torch.get_num_threads(), getattr(_limit, "threads", sys.maxsize))


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """At most so many threads for kernels that this thread calls inside."""
    before = getattr(_limit, "threads", sys.maxsize)
    _limit.threads = min(before, threads)
    try:
        yield
    finally:
        _limit.threads = before


def useful_threads(parameters: int, rows: int) -> int:
    """The most threads that pay for `rows` images at once: a small model needs an image for each."""
    return rows if parameters < SMALL_MODEL else sys.maxsize
