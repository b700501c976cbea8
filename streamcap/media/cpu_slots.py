"""`cpu_slot`: as many threads decode and convert at a time as there are cores.

With dozens of cameras on a slow machine, all of their threads would be ready to run at once. The event loop and the
model's thread would wait behind them for a core, and for Python's lock behind each that lost its core while holding it.
"""

from __future__ import annotations

import os
import threading

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

cpu_slot = threading.BoundedSemaphore(_CORES)
"""Hold it (`with cpu_slot`) for one frame, and never while waiting for data."""
