"""Streams from start to removal, as viewers and caption files see them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamcap.captions.event import Event
from streamcap.captions.hub import SubscribeOptions, UnknownStreamError
from streamcap.engine.outcome import Interim, Times
from streamcap.errors import InputError
from streamcap.media.sources.base import SourceEnded, SourceLost, SourceRefused
from streamcap.media.sources.http.address import HostScope
from streamcap.streams import stream_set
from streamcap.streams.backoff import Backoff
from streamcap.streams.caption_files import CaptionFiles, FilesLockedError, SavedHistory
from streamcap.streams.caption_publisher import rewrite_pause
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream_set import DuplicateStreamError, StreamRemovedError, TooManyStreamsError
from tests.streams.fakes import FakeService, frame
from tests.timeouts import TIMEOUT_FACTOR

URL = "rtsp://admin:hunter2@cam/live"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[FakeService]:
    service = FakeService(tmp_path / "out", every=1.0)
    yield service
    await service.streams.close()


async def live(service: FakeService, name: str = "door", url: str = URL) -> None:
    before, captions = len(service.sources), len(service.of("caption", name))
    await service.streams.add(name, url)
    await wait_sources(service, before + 1)
    service.sources[-1].put(frame(0.0))
    await service.until(lambda: len(service.of("caption", name)) == captions + 1)


async def wait_sources(service: FakeService, count: int) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while len(service.sources) < count:
            await asyncio.sleep(0.005)


async def test_one_caption_per_second(service: FakeService) -> None:
    await live(service)
    for number in range(1, 76):
        service.sources[0].put(frame(number / 25, gray=number))
    await service.until(lambda: len(service.of("caption")) == 4)
    captions = service.of("caption")
    assert [c["start"] for c in captions] == [0.0, 1.0, 2.0, 3.0]
    assert [c["text"] for c in captions] == ["grey 100", "grey 25", "grey 50", "grey 75"]
    assert all(set(c["latency_ms"]) == {"ingest", "queue", "encode", "decode", "total"} for c in captions)
    assert service.streams.get("door").view().sampled == 4


async def test_clip_model_gets_sliding_clip_ending_now() -> None:
    service = FakeService(every=1.0, clip_length=4, clip_seconds=2.0)
    await live(service)
    for number in range(1, 101):
        service.sources[0].put(frame(number / 25, gray=number))
    await service.until(lambda: len(service.of("caption")) == 5)
    windows = [sample.pixels[:, 0, 0, 0].tolist() for sample in service.samples]
    assert all(sample.pixels.shape == (4, 16, 16, 3) for sample in service.samples)
    assert [window[-1] for window in windows] == [100, 25, 50, 75, 100]
    # Two seconds at 25 frames a second, three even steps. The ring keeps a few frames a step.
    for window in windows[3:]:
        assert window[0] == pytest.approx(window[-1] - 50, abs=4)
        assert [b - a for a, b in itertools.pairwise(window)] == pytest.approx([50 / 3] * 3, abs=5)
    # The ring holds no more.
    held = {f.time for f in service.streams.get("door")._ring.window(1000.0, 1000)}
    assert min(held) >= 4.0 - 2.0 - 2.0 / 16 and len(held) <= 4 * 4 + 3
    await service.streams.close()


async def test_status_connecting_live_stalled_live(tmp_path: Path) -> None:
    service = FakeService(every=1.0, stall_after=0.3)
    await live(service)
    await service.until(lambda: "stalled" in service.states("door"))
    service.sources[0].put(frame(1.0))
    await service.until(lambda: service.states("door")[-1] == "live")
    assert service.states("door") == ["connecting", "live", "stalled", "live"]
    assert "no frame for" in service.of("status")[2]["reason"]
    await service.streams.close()


async def test_reconnect_opens_epoch_and_continues_time(service: FakeService) -> None:
    await live(service)
    service.sources[0].put(frame(5.0))
    service.sources[0].put(SourceLost("the connection to rtsp://admin:hunter2@cam/live broke"))
    await wait_sources(service, 2)
    service.sources[1].put(frame(0.0))
    await service.until(lambda: len(service.of("caption")) == 3)
    captions = service.of("caption")
    assert [c["epoch"] for c in captions] == [0, 0, 1]
    assert captions[2]["start"] >= captions[1]["start"]
    reconnecting = next(m for m in service.of("status") if m["state"] == "reconnecting")
    assert "hunter2" not in reconnecting["reason"] and "broke" in reconnecting["reason"]
    assert service.sources[0].closed == 1


async def test_refusing_camera_is_retried_indefinitely(service: FakeService) -> None:
    service.refusals = [SourceRefused("401 Unauthorized", retry=True)] * 5
    await service.streams.add("door", URL)
    await wait_sources(service, 6)
    service.sources[5].put(frame(0.0))
    await service.until(lambda: len(service.of("caption")) == 1)
    assert service.states("door")[:2] == ["connecting", "reconnecting"]
    assert service.streams.get("door").view().reconnections == 5


async def test_backoff_resets_after_frames_only(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(Backoff, "reset", lambda _: resets.append(len(service.sources)))
    # Every connection lasts long enough, as one that waits for an answer does.
    monkeypatch.setattr("streamcap.streams.stream.STABLE_AFTER_S", 0.0)
    await live(service)
    service.refusals = [SourceRefused("no answer within 10 s", retry=True)] * 3
    service.sources[0].put(SourceLost("gone"))
    await wait_sources(service, 5)
    assert resets == [1]


async def test_failing_camera_does_not_affect_others(service: FakeService) -> None:
    await live(service, "good")
    await live(service, "bad")
    service.sources[1].put(RuntimeError("a decoder's worst day"))
    # Not late, however long the other took: a late frame would be skipped.
    began = service.samples[0].arrived
    for second in range(1, 4):
        service.sources[0].put(replace(frame(float(second)), arrived=began + second))
    await service.until(lambda: len(service.of("caption", "good")) == 4 and "reconnecting" in service.states("bad"))
    assert not {"reconnecting", "failed", "ended"} & set(service.states("good"))


async def test_file_ends_and_invalid_file_fails(service: FakeService) -> None:
    await live(service)
    service.sources[0].put(SourceEnded("played to its end"))
    await service.until(lambda: service.states("door")[-1] == "ended")
    service.refusals = [SourceRefused("not a video", retry=False)]
    await service.streams.add("other", URL)
    await service.until(lambda: service.states("other")[-1:] == ["failed"])
    assert service.of("status", "other")[-1]["reason"] == "not a video"


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
    monkeypatch.setattr("streamcap.streams.caption_file_writer.HANG_SECONDS", 0.2)
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
    told: list[int] = []
    for message in service.messages:
        if message["type"] == "gap":
            told += range(message["from"], message["to"] + 1)
        elif "seq" in message:
            told.append(message["seq"])
    assert told == list(range(told[0], told[0] + len(told)))


def test_slow_subtitle_writes_are_less_frequent() -> None:
    assert [rewrite_pause(cost) for cost in (0.0, 0.04, 0.2, 60.0)] == [1.0, 1.0, 4.0, 10.0]


async def test_last_caption_precedes_ended_status(tmp_path: Path) -> None:
    service = FakeService(tmp_path, every=1.0)
    service.delay = 0.3
    await service.streams.add("door", URL)
    await wait_sources(service, 1)
    service.sources[0].put(frame(0.0))
    service.sources[0].put(SourceEnded("played to its end"))
    await service.until(lambda: service.states("door")[-1:] == ["ended"])
    (caption,) = service.of("caption")
    assert json.loads((tmp_path / "door.jsonl").read_text()) == caption


async def test_stop_closes_last_cue(tmp_path: Path) -> None:
    service = FakeService(tmp_path, every=60.0)
    await live(service)
    service.sources[0].put(frame(2.5))
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while service.streams.get("door").view().frames < 2:
            await asyncio.sleep(0.005)
    await service.streams.close()
    assert "00:00:00,000 --> 00:00:02,500" in (tmp_path / "door.srt").read_text()


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
    monkeypatch.setattr("streamcap.streams.caption_publisher.RETRY_SECONDS", 0.05)
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


async def test_frames_that_are_lost_are_counted(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    await live(service)
    service.sources[0].put(frame(5.0))
    await service.until(lambda: len(service.of("caption")) == 2)
    service.sources[0].put(frame(6.0))
    await service.until(lambda: len(service.of("caption")) == 3)
    # Scheduled times without a frame add up over connections.
    service.sources[0].put(SourceLost("gone"))
    await wait_sources(service, 2)
    monkeypatch.setattr(FakeService, "_pixels", staticmethod(lambda *_: (_ for _ in ()).throw(ValueError("no frame"))))
    service.sources[1].put(frame(0.0))
    service.sources[1].put(frame(3.0))
    door = service.streams.get("door")
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while door.view().frame_conversion_errors < 2:
            await asyncio.sleep(0.005)
    assert (door.view().samples_missed, door.view().frame_conversion_errors) == (6, 2)


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
    monkeypatch.setattr("streamcap.streams.caption_publisher.RETRY_SECONDS", 0.05)
    await live(service)
    door, append = service.streams.get("door"), CaptionFiles.append
    monkeypatch.setattr(door.publisher._outbox, "_max_events", 3)

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
    await live(service)
    seqs = [m["seq"] for m in service.messages if "seq" in m]
    assert seqs == sorted(set(seqs))
    assert service.of("caption")[-1]["id"] not in {m["id"] for m in service.of("caption")[:-1]}
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
