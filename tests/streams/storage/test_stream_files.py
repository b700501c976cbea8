"""The caption files of streams: what is in them, and disks that fail."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest

from streamcap.captions.event import Event
from streamcap.captions.subscription import SubscribeOptions
from streamcap.errors import InputError
from streamcap.streams.publishing.feed_writer import rewrite_pause
from streamcap.streams.storage.caption_files import CaptionFiles
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import URL, FakeService, frame, live, wait_sources


async def test_files_equal_feed(service: FakeService, tmp_path: Path) -> None:
    await live(service)
    for second in range(1, 4):
        service.sources[0].put(frame(float(second), gray=second))
    await service.until(lambda: len(service.of("caption")) == 4)
    await service.streams.close()
    out = tmp_path / "out"
    filed = [json.loads(line) for line in (out / "door.jsonl").read_text().splitlines()]
    assert filed == service.of("caption")
    assert (out / "door.srt").read_text().count("-->") == 4
    assert (out / "door.vtt").read_text().startswith("WEBVTT")


async def test_final_is_written_before_delivery(service: FakeService, tmp_path: Path) -> None:
    filed_when_seen: list[bool] = []

    def look(event: Event) -> None:
        if event.is_final:
            filed_when_seen.append(event.text in (tmp_path / "out" / "door.jsonl").read_text().splitlines())

    service.hub.observers.append(look)
    await live(service)
    for second in range(1, 6):
        service.sources[0].put(frame(float(second), gray=second))
    await service.until(lambda: len(service.of("caption")) == 6)
    assert filed_when_seen == [True] * 6
    seqs = [m["seq"] for m in service.messages if "seq" in m]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


async def test_hung_disk_is_a_status_and_a_gap(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcap.streams.storage.caption_file_writer.HANG_SECONDS", 0.2)
    await live(service)
    goes_on, append = threading.Event(), CaptionFiles.append

    def hang(files: CaptionFiles, lines: list[str]) -> None:
        goes_on.wait(TIMEOUT_FACTOR)
        append(files, lines)

    monkeypatch.setattr(CaptionFiles, "append", hang)
    service.sources[0].put(frame(1.0, gray=1))
    await service.until(lambda: "does not answer" in service.of("status")[-1]["reason"])
    for second in range(2, 6):
        service.sources[0].put(frame(float(second), gray=second))
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while service.streams.get("door").view().captions < 6:
            await asyncio.sleep(0.005)
    assert len(service.of("caption")) == 1
    assert_shows_nothing_but(service, "grey 100")
    goes_on.set()
    await service.until(lambda: len(service.of("caption")) == 5 and service.of("status")[-1]["reason"] == "")
    await service.streams.close()
    filed = [json.loads(line) for line in (tmp_path / "out" / "door.jsonl").read_text().splitlines()]
    # The final that was being written is in the file and a gap for viewers; the others waited.
    assert [c["text"] for c in filed] == ["grey 100", "grey 1", "grey 2", "grey 3", "grey 4", "grey 5"]
    assert [filed[0], *filed[2:]] == service.of("caption")
    (gap,) = service.of("gap")
    assert gap["from"] == gap["to"] == filed[1]["seq"]
    assert service.streams.dropped_finals == 1
    assert (tmp_path / "out" / "door.srt").read_text().count("-->") == 6
    assert_numbers_once(service)


def assert_shows_nothing_but(service: FakeService, text: str) -> None:
    """What `GET /streams`, subtitles and HLS read."""
    door = service.streams.get("door")
    last = door.view().last_caption
    assert last is not None and last["text"] == text
    assert [cue.text for cue in door.track.cues] == [text]
    assert door.track.end == 1.0


def assert_numbers_once(service: FakeService) -> None:
    """Every number is an event or in a gap, in order."""
    numbers: list[int] = []
    for message in service.messages:
        if message["type"] == "gap":
            numbers += range(message["from"], message["to"] + 1)
        elif "seq" in message:
            numbers.append(message["seq"])
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_slow_subtitle_writes_are_less_frequent() -> None:
    assert [rewrite_pause(cost) for cost in (0.0, 0.04, 0.2, 60.0)] == [1.0, 1.0, 4.0, 10.0]


async def test_restart_continues_seq_ids_epoch_and_time(tmp_path: Path) -> None:
    first = FakeService(tmp_path, every=1.0)
    await live(first)
    first.sources[0].put(frame(1.0, gray=7))
    await first.until(lambda: len(first.of("caption")) == 2)
    await first.streams.close()
    last_seq = first.streams.get("door").view().last_caption
    second = FakeService(tmp_path, every=1.0)
    await live(second)
    (again,) = second.of("caption")
    assert second.states("door") == ["connecting", "live"]
    old = first.of("caption")[-1]
    assert last_seq is not None
    assert again["seq"] > max(m["seq"] for m in first.messages if "seq" in m)
    assert again["id"] not in {m["id"] for m in first.of("caption")}
    assert again["epoch"] == 1
    assert again["start"] >= old["end"]
    await second.streams.close()
    assert (tmp_path / "door.srt").read_text().count("-->") == 3


async def test_late_caption_is_written_but_not_delivered(tmp_path: Path) -> None:
    service = FakeService(tmp_path, every=1.0, max_age=1e-9)
    await service.streams.add("door", URL)
    await wait_sources(service, 1)
    service.sources[0].put(frame(0.0))
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while service.hub.statistics.stale == 0:
            await asyncio.sleep(0.005)
    await service.streams.close()
    assert service.of("caption") == []
    assert len((tmp_path / "door.jsonl").read_text().splitlines()) == 1


async def test_failing_disk_is_reported_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamcap.streams.publishing.feed_writer.RETRY_SECONDS", 0.05)
    out = tmp_path / "out"
    service = FakeService(out, every=1.0)
    await live(service)
    away = out.rename(tmp_path / "away")
    service.sources[0].put(frame(1.0))
    await service.until(lambda: "cannot write" in service.of("status")[-1]["reason"])
    assert service.of("status")[-1]["state"] == "live"
    service.sources[0].put(frame(2.0))
    away.rename(out)
    await service.until(lambda: service.of("status")[-1]["reason"] == "")
    await service.streams.close()
    assert len((out / "door.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("file", ["door.jsonl", "door.srt", "door.vtt", ".door.state", ".door.lock"])
async def test_fifo_as_caption_file_fails_one_stream(service: FakeService, tmp_path: Path, file: str) -> None:
    fifo = tmp_path / "out" / file
    os.mkfifo(fifo)
    async with asyncio.timeout(TIMEOUT_FACTOR):
        door = await service.streams.add("door", URL, keep_failed=True)
    assert door.view().state == "failed"
    assert f"not a regular file; move it away: '{fifo}'" in door.view().reason
    await live(service, "yard", "rtsp://yard/1")
    viewer = service.hub.subscribe(SubscribeOptions(frozenset({"door"})), lambda: None)
    hello, status = map(json.loads, viewer.take())
    assert hello["streams"][0]["state"] == status["state"] == "failed"
    assert status["reason"] == door.view().reason
    fifo.unlink()
    await service.streams.replace("door")
    await service.until(lambda: "connecting" in service.states("door"))
    assert service.of("status", "door")[0]["seq"] == 1


async def test_fifo_as_caption_file_refuses_add(service: FakeService, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out" / "door.jsonl")
    with pytest.raises(InputError, match=r"cannot use the files of stream door: .* not a regular file"):
        await service.streams.add("door", URL)
    assert service.streams.names() == []


@pytest.mark.parametrize("recovers", [True, False])
async def test_full_disk_holds_finals_then_drops_them(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovers: bool
) -> None:
    monkeypatch.setattr("streamcap.streams.publishing.feed_writer.RETRY_SECONDS", 0.05)
    await live(service)
    door, append = service.streams.get("door"), CaptionFiles.append
    monkeypatch.setattr(door.publisher._feed._outbox, "_max_events", 3)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaptionFiles, "append", refuse)
    for second in range(1, 7):
        service.sources[0].put(frame(float(second), gray=second))
    await service.until(lambda: "No space left on device; captions are held" in service.of("status")[-1]["reason"])
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while door.view().files_dropped < 3:
            await asyncio.sleep(0.005)
    assert len(service.of("caption")) == 1
    assert_shows_nothing_but(service, "grey 100")
    if recovers:
        monkeypatch.setattr(CaptionFiles, "append", append)
        await service.until(lambda: service.of("status")[-1]["reason"] == "")
    await service.streams.close()
    await service.until(lambda: bool(service.of("gap")))
    texts = ["grey 100", "grey 4", "grey 5", "grey 6"] if recovers else ["grey 100"]
    filed = [json.loads(line) for line in (tmp_path / "out" / "door.jsonl").read_text().splitlines()]
    assert [c["text"] for c in service.of("caption")] == texts and filed == service.of("caption")
    assert service.streams.dropped_finals == (3 if recovers else 6)
    assert [gap["to"] - gap["from"] + 1 for gap in service.of("gap")] == [3 if recovers else 6]
    assert_numbers_once(service)
