"""Returns unused memory to the system.

Python collects reference cycles by the number of objects, and a frame or a decoder is one small object with megabytes
behind it: removed streams and lost connections would stay for hours. And glibc keeps what threads have freed in a heap
of each thread. Frames of several sources, allocated and freed on several threads, make these heaps grow by hundreds of
megabytes that nobody uses.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc

from streamcap.daemon_pool import DaemonPool

TRIM_SECONDS = 10.0


def begin_collections() -> None:
    """Let Python collect cycles from now on, when everything that stays is loaded: collections need not visit that."""
    gc.freeze()
    gc.enable()


def trim_heap() -> bool:
    """Return freed memory to the system, which takes a few milliseconds; False where the C library cannot."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim(0)
    return True


async def trim_heap_periodically(*, collect_cycles: bool = True) -> None:
    """Collect reference cycles and call `trim_heap` every TRIM_SECONDS on a thread, until cancelled.

    collect_cycles: not where millions of objects are kept: a collection visits them all, and Python stands still.
    """
    pool = DaemonPool("heap")
    try:
        while True:  # a period, not a wait for a condition
            # First: a service that starts has nothing to return, and a collection would delay its first caption.
            await asyncio.sleep(TRIM_SECONDS)
            if collect_cycles:
                await pool.run(gc.collect)
            await pool.run(trim_heap)
    finally:
        pool.close()
