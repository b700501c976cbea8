"""Returns freed memory to the system.

glibc keeps what threads have freed in a heap of each thread. Frames of several sources, allocated and freed on several
threads, make these heaps grow by hundreds of megabytes that nobody uses.
"""

from __future__ import annotations

import asyncio
import ctypes

from streamcap.daemon_pool import DaemonPool

TRIM_SECONDS = 10.0


def trim_heap() -> bool:
    """Return freed memory to the system, which takes a few milliseconds; False where the C library cannot."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim(0)
    return True


async def trim_heap_periodically() -> None:
    """Call `trim_heap` every TRIM_SECONDS on a thread, until cancelled."""
    pool = DaemonPool("heap")
    try:
        while await pool.run(trim_heap):  # noqa: ASYNC110 - a period, not a wait for a condition
            await asyncio.sleep(TRIM_SECONDS)
    finally:
        pool.close()
