"""Exit of `streamcap serve` while the device thread is busy, or a disk hangs."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import threading
import torch
from streamcap.cli.service.process import run_service

begun = threading.Event()

def work():
    square = torch.ones(700, 700)
    while True:
        torch.mm(square, square)
        begun.set()

async def main():
    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    print("closed", flush=True)
    return False

run_service(main())
"""


def test_exit_with_busy_device_thread_is_clean() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


HUNG = """
import asyncio, time
from streamcap.cli.service.process import run_service

async def main():
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    return True

run_service(main())
print("never reached")
"""


def test_exit_with_hung_write_is_bounded_and_reported() -> None:
    done = subprocess.run([sys.executable, "-c", HUNG], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "exiting although a file is still being written: the disk does not respond\n"
