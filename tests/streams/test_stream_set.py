"""Adding, replacing and removing streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from streamcap.captions.hub import UnknownStreamError
from streamcap.captions.subscription import SubscribeOptions
from streamcap.engine.outcome import Interim, Times
from streamcap.errors import InputError
from streamcap.media.sources.address import HostScope
from streamcap.streams import stream_set
from streamcap.streams.settings import StreamSettings
from streamcap.streams.storage.caption_files import CaptionFiles, FilesLockedError, SavedHistory
from streamcap.streams.stream_set import DuplicateStreamError, StreamRemovedError, TooManyStreamsError
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import URL, FakeService, frame, live, wait_sources


async def test_names_are_checked_and_found(service: FakeService) -> None:
    await live(service)
    with pytest.raises(DuplicateStreamError, match="door"):
        await service.streams.add("door", URL)
    with pytest.raises(InputError, match="stream name"):
        await service.streams.add("../door", URL)
    with pytest.raises(UnknownStreamError, match="there are: door"):
        service.streams.get("garden")
    with pytest.raises(UnknownStreamError):
        await service.streams.remove("garden")


async def test_stream_limit() -> None:
    service = FakeService(max_streams=1)
    await service.streams.add("door", URL)
    with pytest.raises(TooManyStreamsError, match="already has 1 streams, its maximum"):
        await service.streams.add("yard", URL)
    await service.streams.remove("door")
    await service.streams.add("yard", URL)
    await service.streams.close()


async def test_name_is_derived_from_url(service: FakeService) -> None:
    names = [(await service.streams.add(None, url)).name for url in (URL, URL, "rtsp://yard.example:8554", "scenes:")]
    assert names == ["live", "live-2", "yard.example", "scenes"]


async def test_replaced_stream_keeps_its_scope(service: FakeService) -> None:
    await service.streams.add("door", "rtsp://door", scope=HostScope.PUBLIC)
    assert (await service.streams.replace("door", settings=StreamSettings(every=2.0))).scope is HostScope.PUBLIC
    assert (await service.streams.replace("door", url="rtsp://yard")).scope is HostScope.ANY


async def test_stream_removed_at_once_unlocks_its_files(service: FakeService, tmp_path: Path) -> None:
    await service.streams.add("door", URL)
    await service.streams.remove("door")
    opened = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]  # noqa: PTH208 - numbers
    assert not [one for one in opened if one.exists() and one.readlink().is_relative_to(tmp_path)]


async def test_removed_stream_frees_its_name(service: FakeService) -> None:
    await live(service)
    await service.streams.remove("door")
    assert service.forgotten == ["door"]
    assert service.streams.names() == []
    assert service.sources[0].closed == 1
    await service.until(lambda: service.states("door")[-1] == "ended")
    await live(service)


@pytest.mark.parametrize("filed", [False, True])
async def test_re_added_stream_continues_seq(tmp_path: Path, filed: bool) -> None:
    service = FakeService(tmp_path if filed else None, every=1.0)
    await live(service)
    shown = Interim(replace(service.samples[0], start=1.0), "a man", Times(0.0, 0.0, 0.0))
    service.streams.dispatch([shown])
    await service.until(lambda: len(service.of("caption")) == 2)
    await service.streams.remove("door")
    # A stream that is removed before it starts keeps its counters.
    adding = asyncio.create_task(service.streams.add("door", URL))
    await asyncio.sleep(0)
    await service.streams.remove("door")
    with contextlib.suppress(InputError):
        await adding
    before = {m["id"] for m in service.of("caption")}
    await live(service)
    await service.until(lambda: service.of("caption")[-1]["id"] not in before)
    seqs = [m["seq"] for m in service.messages if "seq" in m]
    assert seqs == sorted(set(seqs))
    # Subscribers that missed the removal receive a gap.
    last = max(m["seq"] for m in service.of("status") if m["state"] == "ended")
    _, gap = (json.loads(text) for text in service.hub.subscribe(SubscribeOptions(), lambda: None, last - 1).take()[:2])
    assert (gap["type"], gap["from"]) == ("gap", last)
    await service.streams.close()


async def test_replace_keeps_url_and_numbers(service: FakeService) -> None:
    await live(service)
    seq = service.of("caption")[-1]["seq"]
    old = service.streams.get("door")
    new = await service.streams.replace("door")
    assert new is not old
    assert new.source_url == URL
    await wait_sources(service, 2)
    service.sources[-1].put(frame(0.0))
    await service.until(lambda: len(service.of("caption")) == 2)
    assert service.of("caption")[-1]["seq"] > seq
    with pytest.raises(InputError, match="gopher"):
        await service.streams.replace("door", url="gopher://x")
    assert service.streams.get("door") is new
    assert (await service.streams.replace("door", settings=StreamSettings(every=5.0))).every == 5.0
    with pytest.raises(UnknownStreamError):
        await service.streams.replace("yard")


async def test_removed_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_set, "NAMES_KEPT", 2)
    service = FakeService()
    for name in ("one", "two", "one", "three", "four"):
        await service.streams.add(name, URL)
        await service.streams.remove(name)
    assert list(service.streams._counters) == ["three", "four"]


async def test_add_during_removal_creates_new_stream(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    await live(service)
    goes_on, end = asyncio.Event(), stream_set._end

    async def slowly(tasks: list[asyncio.Task[None]]) -> None:
        await end(tasks)
        await goes_on.wait()

    monkeypatch.setattr(stream_set, "_end", slowly)
    removing = asyncio.create_task(service.streams.remove("door"))
    await asyncio.sleep(0)
    monkeypatch.setattr(stream_set, "_end", end)
    await service.streams.remove("door")
    await live(service)
    goes_on.set()
    await removing
    assert service.streams.names() == ["door"]
    service.sources[1].put(frame(1.0))
    await service.until(lambda: len(service.of("caption")) == 3)


async def test_removal_during_history_load_frees_name(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, goes_on, load_history = threading.Event(), threading.Event(), CaptionFiles.load_history

    def slowly(files: CaptionFiles, window: float) -> SavedHistory:
        reading.set()
        goes_on.wait(TIMEOUT_FACTOR)
        return load_history(files, window)

    monkeypatch.setattr(CaptionFiles, "load_history", slowly)
    adding = asyncio.create_task(service.streams.add("door", URL))
    await asyncio.to_thread(reading.wait, 10)
    await service.streams.remove("door")
    # Its files are still locked, and free a moment later.
    with pytest.raises(FilesLockedError, match="being written by another"):
        await service.streams.add("door", URL)
    goes_on.set()
    with pytest.raises(StreamRemovedError, match="removed before it started"):
        await adding
    await live(service)


async def test_secrets_are_absent_from_logs_and_api(service: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await live(service)
    service.sources[0].put(RuntimeError(f"no route to {URL}"))
    await service.until(lambda: "reconnecting" in service.states("door"))
    assert "hunter2" not in json.dumps(service.messages)
    assert "hunter2" not in str(service.streams.get("door").view())
    assert not [r for r in caplog.records if "hunter2" in r.getMessage()]


async def test_close_is_idempotent(service: FakeService) -> None:
    await live(service)
    await service.streams.close()
    await service.streams.close()


async def test_replace_keeps_stream_without_its_files(service: FakeService, tmp_path: Path) -> None:
    await live(service)
    jsonl = tmp_path / "out" / "door.jsonl"
    jsonl.unlink()
    jsonl.mkdir()
    assert (await service.streams.replace("door")).view().state == "failed"
    assert "not a regular file" in service.streams.get("door").view().reason
    jsonl.rmdir()
    assert (await service.streams.replace("door")).view().state == "connecting"
