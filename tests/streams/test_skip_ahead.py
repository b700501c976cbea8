"""A camera whose video waits too long in its connection."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from dataclasses import replace

import pytest

from streamcap.media.sources.base import SourceInfo
from streamcap.media.timing.wait_clock import WaitClock
from streamcap.streams.source import source_thread
from streamcap.streams.source.source_thread import NICENESS
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import FakeService, MadeSource, frame, live, wait_sources


class BusySource(MadeSource):
    """Its thread never waits, as if there were always more to read."""

    def open(self) -> SourceInfo:
        self.waits = WaitClock()
        return super().open()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.streams.fakes.MadeSource", BusySource)
    monkeypatch.setattr(source_thread, "SKIP_AHEAD_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_waiting_video_is_skipped_without_blame() -> None:
    service = FakeService(every=1.0)
    await live(service)
    late = frame(1.0)
    service.sources[0].put(replace(late, arrived=late.arrived + 60))
    await wait_sources(service, 2)
    service.sources[1].put(frame(2.0))
    await service.until(lambda: len(service.of("caption")) == 2)
    door = service.streams.get("door").view()
    assert (door.skips_ahead, door.reconnections) == (1, 0)
    assert service.states("door") == ["connecting", "live"]
    await service.streams.close()


@pytest.mark.usefixtures("impatient")
async def test_short_lag_keeps_the_connection() -> None:
    service = FakeService(every=1.0)
    await live(service)
    late = frame(1.0)
    service.sources[0].put(replace(late, arrived=late.arrived + source_thread.SKIP_AHEAD_SECONDS - 1))
    began = time.monotonic()
    thread = service.streams.get("door")._source_thread
    assert thread is not None
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while thread.lag.seconds < 1:
            await asyncio.sleep(0.005)
    for step in range(12):
        thread.watch(began + step / 4)
    assert thread.source.catch_up and not thread.should_skip_ahead(began + 60)
    await service.streams.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
async def test_thread_of_source_yields_to_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    priorities: list[int] = []

    class NotingSource(MadeSource):
        def open(self) -> SourceInfo:
            priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return super().open()

    monkeypatch.setattr("tests.streams.fakes.MadeSource", NotingSource)
    service = FakeService()
    await live(service)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert priorities == [min(19, here + NICENESS)]
    await service.streams.close()
