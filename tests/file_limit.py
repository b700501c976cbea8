"""A process whose files cannot grow: what the system then reports is what it reports of a full disk, by another number.

A process of its own: the limit also holds for the log that a test run is written to.
"""

from __future__ import annotations

import subprocess
import sys

from testbed.timeouts import TIMEOUT_FACTOR

LIMIT = """
import resource, signal, sys
limit = int(sys.argv.pop(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

"""


def run_with_file_limit(limit: int, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code with `arguments` in `sys.argv[1:]`.

    From its call of `limit_file_size()` on, no file grows over `limit` bytes.
    """
    command = [sys.executable, "-c", LIMIT + program, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_FACTOR)
