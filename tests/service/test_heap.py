"""Freed memory goes back to the system."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import weakref
from pathlib import Path

import pytest

from streamcap.cli.service.process import defer_collections
from streamcap.service import heap
from streamcap.service.heap import begin_collections, trim_heap, trim_heap_periodically
from testbed.timeouts import TIMEOUT_FACTOR

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_trim_heap_returns_freed_blocks() -> None:
    blocks = [bytes(50_000) for _ in range(2000)]
    last = bytes(50_000)  # above the others in the heap, so that they cannot go back on their own
    del blocks
    before = resident()
    assert trim_heap()
    assert resident() < before - 50_000_000
    assert len(last) == 50_000


async def test_trim_heap_periodically_until_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    called = asyncio.Event()
    loop = asyncio.get_running_loop()
    calls: list[int] = []

    def trim() -> bool:
        calls.append(1)
        if len(calls) == 3:
            loop.call_soon_threadsafe(called.set)
        return True

    monkeypatch.setattr(heap, "trim_heap", trim)
    monkeypatch.setattr(heap, "TRIM_SECONDS", 0.01)
    task = asyncio.create_task(trim_heap_periodically())
    async with asyncio.timeout(TIMEOUT_FACTOR):
        await called.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


class _Node:
    """An object in a reference cycle."""

    def __init__(self) -> None:
        self.itself = self


async def test_cycles_are_collected_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "TRIM_SECONDS", 0.01)
    collected = asyncio.Event()
    loop = asyncio.get_running_loop()
    gc.disable()  # so that only the task under test collects
    try:
        weakref.finalize(_Node(), loop.call_soon_threadsafe, collected.set)
        task = asyncio.create_task(trim_heap_periodically())
        async with asyncio.timeout(TIMEOUT_FACTOR):
            await collected.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        gc.enable()


def test_begin_collections_after_a_start_without_them() -> None:
    try:
        defer_collections()
        assert not gc.isenabled()
        begin_collections()
        assert gc.isenabled() and gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()
