"""Calls that hang keep nothing but their own thread."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import streamcap
from streamcap.daemon_pool import DaemonPool, PoolFullError
from testbed.timeouts import TIMEOUT_FACTOR


async def test_run_gives_result_and_error() -> None:
    pool = DaemonPool("p")
    assert await pool.run(pow, 2, 10) == 1024
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    pool.close()


async def test_one_thread_keeps_order() -> None:
    pool, seen = DaemonPool("p"), []
    await asyncio.gather(*(pool.run(seen.append, number) for number in range(50)))
    assert seen == list(range(50))
    pool.close()


async def test_threads_are_bounded_and_end() -> None:
    pool, go, threads = DaemonPool("bounded", max_threads=3, max_waiting=10), threading.Event(), set[str]()

    def work() -> None:
        threads.add(threading.current_thread().name)
        go.wait(TIMEOUT_FACTOR)

    calls = [asyncio.ensure_future(pool.run(work)) for _ in range(10)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*calls)
    assert len(threads) <= 3
    pool.close()
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while [t for t in threading.enumerate() if t.name.startswith("bounded-")]:
            await asyncio.sleep(0.01)


async def test_full_pool_refuses_and_cancel_frees() -> None:
    pool, go, begun = DaemonPool("p", max_waiting=2), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait(TIMEOUT_FACTOR)

    hung = asyncio.ensure_future(pool.run(hang))
    await asyncio.sleep(0)
    assert begun.wait(TIMEOUT_FACTOR)
    ran: list[int] = []
    waiting = [asyncio.ensure_future(pool.run(ran.append, number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(PoolFullError, match="2 calls are waiting"):
        await pool.run(ran.append, 3)
    waiting[0].cancel()
    await asyncio.wait((waiting[0],))  # a task takes its cancellation at its next turn
    go.set()
    await hung
    await waiting[1]
    assert ran == [1]
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(print)


def test_hung_call_does_not_keep_the_process() -> None:
    code = "import time; from streamcap.daemon_pool import DaemonPool; DaemonPool('p').submit(time.sleep, 600)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=TIMEOUT_FACTOR)
    assert done.returncode == 0 and time.monotonic() - began < 60


def test_nothing_uses_the_default_executor() -> None:
    package = Path(streamcap.__file__).parent
    default = re.compile(r"to_thread\(|run_in_executor\(None")
    assert [str(path) for path in package.rglob("*.py") if default.search(path.read_text("utf-8"))] == []
