"""A camera that refuses, and a disk that is full: what is tried again, and what the log says."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from streamcap.media.sources.base import SourceRefused
from streamcap.streams.storage.caption_files import CaptionFiles
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import URL, FakeService, frame, live


async def test_refused_login_is_tried_again_quietly(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(min_refused_delay=0.2, max_refused_delay=0.3, min_retry_delay=0.01)
    service.refusals = [SourceRefused("401: a wrong password", retry=False) for _ in range(3)]
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        await service.streams.add("door", URL)
        await service.until(lambda: "failed" in service.states("door"))
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while len(service.sources) < 4:
                await asyncio.sleep(0.01)
    assert time.monotonic() - began >= 3 * 0.2  # its pauses, not those of a lost camera
    service.sources[3].put(frame(0.0))
    await service.until(lambda: service.states("door")[-1] == "live")
    await service.streams.close()
    assert service.states("door") == ["connecting", "failed", "live"]
    assert len([record for record in caplog.records if "401" in record.getMessage()]) == 1


async def test_invalid_local_source_is_not_tried_again() -> None:
    service = FakeService(min_refused_delay=0.01, max_refused_delay=0.01)
    service.refusals = [SourceRefused("no video", retry=False)]
    await service.streams.add("door", "scenes:")
    async with asyncio.timeout(TIMEOUT_FACTOR):
        await service.streams._tasks["door"]
    assert len(service.sources) == 1
    await service.streams.close()


async def test_full_disk_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamcap.streams.publishing.feed_writer.RETRY_SECONDS", 0.05)
    service = FakeService(tmp_path / "out", every=1.0)
    await live(service)
    attempts: list[int] = []

    def refuse(*_: object) -> None:
        attempts.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaptionFiles, "append", refuse)
    for second in range(1, 4):
        service.sources[0].put(frame(float(second), gray=second))
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while len(attempts) < 4:
            await asyncio.sleep(0.01)
    (warning,) = [record for record in caplog.records if "No space left" in record.getMessage()]
    assert (warning.levelname, warning.__dict__["stream"]) == ("WARNING", "door")
    await service.streams.close()


LATE = "no video that could be opened came within 10 s"
OURS = "opening took longer than 10 s while this machine is overloaded"


async def test_slow_camera_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.streams.source.source_thread._run_delay", lambda _thread: 0.0)
    service = FakeService()
    service.refusals = [SourceRefused(LATE, retry=True, timed_out=True) for _ in range(100)]
    stream = await service.streams.add("door", URL)
    await service.until(lambda: stream.view().reason != "")
    assert stream.view().reason == LATE
    await service.streams.close()


async def test_overloaded_machine_is_named_as_the_cause() -> None:
    service = FakeService()
    service.refusals = [SourceRefused(LATE, retry=True, timed_out=True) for _ in range(100)]
    service.streams.overload.note_loop_delay(1.0)
    stream = await service.streams.add("door", URL)
    service.streams.check_load()
    await service.until(lambda: OURS in stream.view().reason)
    assert "hunter2" not in stream.view().reason
    await service.streams.close()


async def test_thread_without_a_core_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = iter(range(0, 10_000, 10))
    monkeypatch.setattr("streamcap.streams.source.source_thread._run_delay", lambda _thread: float(next(delays)))
    service = FakeService()
    service.refusals = [SourceRefused(LATE, retry=True, timed_out=True) for _ in range(100)]
    stream = await service.streams.add("door", URL)
    await service.until(lambda: OURS in stream.view().reason)
    await service.streams.close()


async def test_overloaded_machine_is_not_blamed_for_a_refusal() -> None:
    service = FakeService(max_refused_delay=0.01, min_refused_delay=0.01)
    service.refusals = [SourceRefused("the connection was refused", retry=True) for _ in range(100)]
    service.streams.overload.note_loop_delay(1.0)
    stream = await service.streams.add("door", URL)
    service.streams.check_load()
    await service.until(lambda: stream.view().reason != "")
    assert stream.view().reason == "the connection was refused"
    await service.streams.close()
