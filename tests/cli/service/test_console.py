"""Captions on standard output while a service runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable

import pytest

from streamcap.captions.event import Status, StreamState
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.cli.service.console import print_captions
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captions.fakes import caption


async def print_until(done: Callable[[], bool], captions: int) -> None:
    hub = Hub(time.monotonic, time.time)
    hub.add(EventLog("door"))
    printing = asyncio.create_task(print_captions(hub))
    await asyncio.sleep(0)
    hub.publish(Status("door", StreamState.STALLED, "no frame for 3 s"))
    for number in range(captions):
        hub.publish(caption(number=number))
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not done():
            await asyncio.sleep(0.01)
    printing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await printing


def test_finals_are_one_line_each_without_states(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb", 0) as reader, os.fdopen(write, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        os.set_blocking(read, False)
        printed = bytearray()

        def done() -> bool:
            printed.extend(reader.read() or b"")
            return printed.count(b"\n") == 2

        asyncio.run(print_until(done, captions=2))
    first, _ = printed.decode().splitlines()
    assert "door" in first and "a man opens a door" in first


async def hold_for_long_then_read(read: int) -> bytes:
    """Output after the terminal was blocked for more finals than a subscription holds."""
    hub = Hub(time.monotonic, time.time)
    hub.add(EventLog("door"))
    hub.publish(Status("door", StreamState.LIVE))
    printing = asyncio.create_task(print_captions(hub))
    await asyncio.sleep(0)
    while not hub.statistics.closed_slow:
        hub.publish(caption("missed"))
        await asyncio.sleep(0)
    hub.publish(caption("on screen now", number=38))
    printed = bytearray()
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while b"on screen now" not in printed:
            with contextlib.suppress(BlockingIOError):
                printed += os.read(read, 1 << 16)
            await asyncio.sleep(0.01)
    printing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await printing
    return bytes(printed)


def full_pipe() -> tuple[int, int]:
    """Both ends of a full pipe: a write blocks until the other end reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, b" " * 512):
            pass
    os.set_blocking(write, True)
    return read, write


def test_blocked_terminal_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = full_pipe()
    os.set_blocking(read, False)
    with os.fdopen(write, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        assert b"on screen now" in asyncio.run(hold_for_long_then_read(read))
    os.close(read)


def test_unread_pipe_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = full_pipe()
    with os.fdopen(write, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        began = time.monotonic()
        # Closing the loop waits for executor threads; the writer must not be one of them.
        asyncio.run(print_until(lambda: time.monotonic() > began + 0.2, captions=50))
        os.close(read)
