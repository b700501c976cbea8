"""A stream's life as a viewer hears of it and as its files tell it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamcap.captions.event import Event
from streamcap.captions.hub import UnknownStreamError, Wish
from streamcap.engine.outcome import Interim, Times
from streamcap.errors import InputError
from streamcap.media.sources.contract import SourceEnded, SourceLost, SourceRefused
from streamcap.service import streams
from streamcap.service.backoff import Backoff
from streamcap.service.files import CaptionFiles, FilesInUseError, Past
from streamcap.service.filing import pause
from streamcap.service.streams import DuplicateStreamError, TooManyStreamsError
from tests.patience import PATIENCE
from tests.service.made import House, frame

URL = "rtsp://admin:hunter2@cam/live"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "out", every=1.0)
    yield house
    await house.streams.close()


async def live(house: House, name: str = "door", url: str = URL) -> None:
    before, captions = len(house.sources), len(house.of("caption", name))
    await house.streams.add(name, url)
    await wait_sources(house, before + 1)
    house.sources[-1].put(frame(0.0))
    await house.until(lambda: len(house.of("caption", name)) == captions + 1)


async def wait_sources(house: House, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(house.sources) < count:
            await asyncio.sleep(0.005)


async def test_frames_become_captions_once_every_second(house: House) -> None:
    await live(house)
    for number in range(1, 76):
        house.sources[0].put(frame(number / 25, grey=number))
    await house.until(lambda: len(house.of("caption")) == 4)
    captions = house.of("caption")
    assert [c["start"] for c in captions] == [0.0, 1.0, 2.0, 3.0]
    assert [c["text"] for c in captions] == ["grey 100", "grey 25", "grey 50", "grey 75"]
    assert all(set(c["latency_ms"]) == {"ingest", "queue", "encode", "decode", "total"} for c in captions)
    assert house.streams.get("door").view().sampled == 4


async def test_a_clip_model_gets_a_sliding_window_ending_with_the_newest_frame() -> None:
    house = House(every=1.0, clip_length=4, clip_seconds=2.0)
    await live(house)
    for number in range(1, 101):
        house.sources[0].put(frame(number / 25, grey=number))
    await house.until(lambda: len(house.of("caption")) == 5)
    windows = [sample.pixels[:, 0, 0, 0].tolist() for sample in house.samples]
    assert all(sample.pixels.shape == (4, 16, 16, 3) for sample in house.samples)
    assert [window[-1] for window in windows] == [100, 25, 50, 75, 100]
    # Two seconds at 25 frames a second, three even steps; the ring thins what it holds to a few frames a step.
    for window in windows[3:]:
        assert window[0] == pytest.approx(window[-1] - 50, abs=4)
        assert [b - a for a, b in itertools.pairwise(window)] == pytest.approx([50 / 3] * 3, abs=5)
    # No more than that is held.
    held = {f.time for f in house.streams.get("door")._ring.window(1000.0, 1000)}
    assert min(held) >= 4.0 - 2.0 - 2.0 / 16 and len(held) <= 4 * 4 + 3
    await house.streams.close()


async def test_states_tell_connecting_live_stalled_and_live_again(tmp_path: Path) -> None:
    house = House(every=1.0, stall_after=0.3)
    await live(house)
    await house.until(lambda: "stalled" in house.states("door"))
    house.sources[0].put(frame(1.0))
    await house.until(lambda: house.states("door")[-1] == "live")
    assert house.states("door") == ["connecting", "live", "stalled", "live"]
    assert "no frame for" in house.of("status")[2]["reason"]
    await house.streams.close()


async def test_a_lost_camera_comes_back_as_a_new_epoch_and_time_goes_on(house: House) -> None:
    await live(house)
    house.sources[0].put(frame(5.0))
    house.sources[0].put(SourceLost("the connection to rtsp://admin:hunter2@cam/live broke"))
    await wait_sources(house, 2)
    house.sources[1].put(frame(0.0))
    await house.until(lambda: len(house.of("caption")) == 3)
    captions = house.of("caption")
    assert [c["epoch"] for c in captions] == [0, 0, 1]
    assert captions[2]["start"] >= captions[1]["start"]
    reconnecting = next(m for m in house.of("status") if m["state"] == "reconnecting")
    assert "hunter2" not in reconnecting["reason"] and "broke" in reconnecting["reason"]
    assert house.sources[0].closed == 1


async def test_a_camera_that_refuses_is_tried_for_ever(house: House) -> None:
    house.refusals = [SourceRefused("401 Unauthorized", retry=True)] * 5
    await house.streams.add("door", URL)
    await wait_sources(house, 6)
    house.sources[5].put(frame(0.0))
    await house.until(lambda: len(house.of("caption")) == 1)
    assert house.states("door")[:2] == ["connecting", "reconnecting"]
    assert house.streams.get("door").view().reconnections == 5


async def test_only_a_connection_that_gave_frames_makes_pauses_short_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets: list[int] = []
    monkeypatch.setattr(Backoff, "reset", lambda _: resets.append(len(house.sources)))
    # So that every opening lasts long enough, as one does that waits in vain for an answer.
    monkeypatch.setattr("streamcap.service.stream.GOOD_SECONDS", 0.0)
    await live(house)
    house.refusals = [SourceRefused("no answer within 10 s", retry=True)] * 3
    house.sources[0].put(SourceLost("gone"))
    await wait_sources(house, 5)
    assert resets == [1]


async def test_one_cameras_trouble_is_not_anothers(house: House) -> None:
    await live(house, "good")
    await live(house, "bad")
    house.sources[1].put(RuntimeError("a decoder's worst day"))
    # In time, however long the other took to come: what comes late would be passed over.
    began = house.samples[0].arrived
    for second in range(1, 4):
        house.sources[0].put(replace(frame(float(second)), arrived=began + second))
    await house.until(lambda: len(house.of("caption", "good")) == 4 and "reconnecting" in house.states("bad"))
    assert not {"reconnecting", "failed", "ended"} & set(house.states("good"))


async def test_a_file_ends_and_a_file_that_is_none_fails(house: House) -> None:
    await live(house)
    house.sources[0].put(SourceEnded("played to its end"))
    await house.until(lambda: house.states("door")[-1] == "ended")
    house.refusals = [SourceRefused("not a video", retry=False)]
    await house.streams.add("other", URL)
    await house.until(lambda: house.states("other")[-1:] == ["failed"])
    assert house.of("status", "other")[-1]["reason"] == "not a video"


async def test_files_hold_what_the_feed_sent(house: House, tmp_path: Path) -> None:
    await live(house)
    for second in range(1, 4):
        house.sources[0].put(frame(float(second), grey=second))
    await house.until(lambda: len(house.of("caption")) == 4)
    await house.streams.close()
    out = tmp_path / "out"
    filed = [json.loads(line) for line in (out / "door.jsonl").read_text().splitlines()]
    assert filed == house.of("caption")
    assert (out / "door.srt").read_text().count("-->") == 4
    assert (out / "door.vtt").read_text().startswith("WEBVTT")


async def test_a_final_is_filed_before_anyone_sees_it(house: House, tmp_path: Path) -> None:
    filed_when_seen: list[bool] = []

    def look(event: Event) -> None:
        if event.is_final:
            filed_when_seen.append(event.text in (tmp_path / "out" / "door.jsonl").read_text().splitlines())

    house.hub.observers.append(look)
    await live(house)
    for second in range(1, 6):
        house.sources[0].put(frame(float(second), grey=second))
    await house.until(lambda: len(house.of("caption")) == 6)
    assert filed_when_seen == [True] * 6
    seqs = [m["seq"] for m in house.messages if "seq" in m]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


async def test_a_disk_that_hangs_holds_few_events_up(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcap.service.filing.HELD_EVENTS", 2)
    await live(house)
    goes_on, append = threading.Event(), CaptionFiles.append

    def hang(files: CaptionFiles, lines: list[str]) -> None:
        goes_on.wait(PATIENCE)
        append(files, lines)

    monkeypatch.setattr(CaptionFiles, "append", hang)
    for second in range(1, 6):
        house.sources[0].put(frame(float(second), grey=second))
    await house.until(lambda: len(house.of("caption")) == 4)
    goes_on.set()
    await house.until(lambda: len(house.of("caption")) == 6)
    await house.streams.close()
    filed = [json.loads(line) for line in (tmp_path / "out" / "door.jsonl").read_text().splitlines()]
    assert filed == house.of("caption")


def test_subtitle_files_that_take_long_to_write_are_written_less_often() -> None:
    assert [pause(cost) for cost in (0.0, 0.04, 0.2, 60.0)] == [1.0, 1.0, 4.0, 10.0]


async def test_the_last_caption_of_a_file_comes_before_its_end(tmp_path: Path) -> None:
    house = House(tmp_path, every=1.0)
    house.delay = 0.3
    await house.streams.add("door", URL)
    await wait_sources(house, 1)
    house.sources[0].put(frame(0.0))
    house.sources[0].put(SourceEnded("played to its end"))
    await house.until(lambda: house.states("door")[-1:] == ["ended"])
    (caption,) = house.of("caption")
    assert json.loads((tmp_path / "door.jsonl").read_text()) == caption


async def test_a_stop_closes_the_last_cue(tmp_path: Path) -> None:
    house = House(tmp_path, every=60.0)
    await live(house)
    house.sources[0].put(frame(2.5))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        while house.streams.get("door").view().frames < 2:
            await asyncio.sleep(0.005)
    await house.streams.close()
    assert "00:00:00,000 --> 00:00:02,500" in (tmp_path / "door.srt").read_text()


async def test_a_restart_goes_on_with_seq_ids_epoch_and_time(tmp_path: Path) -> None:
    first = House(tmp_path, every=1.0)
    await live(first)
    first.sources[0].put(frame(1.0, grey=7))
    await first.until(lambda: len(first.of("caption")) == 2)
    await first.streams.close()
    last_seq = first.streams.get("door").view().last_caption
    second = House(tmp_path, every=1.0)
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


async def test_a_late_caption_is_filed_but_not_pushed(tmp_path: Path) -> None:
    house = House(tmp_path, every=1.0, max_age=1e-9)
    await house.streams.add("door", URL)
    await wait_sources(house, 1)
    house.sources[0].put(frame(0.0))
    async with asyncio.timeout(PATIENCE):
        while house.hub.statistics.stale == 0:
            await asyncio.sleep(0.005)
    await house.streams.close()
    assert house.of("caption") == []
    assert len((tmp_path / "door.jsonl").read_text().splitlines()) == 1


async def test_a_disk_that_refuses_is_told_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamcap.service.filing.RETRY_SECONDS", 0.05)
    out = tmp_path / "out"
    house = House(out, every=1.0)
    await live(house)
    away = out.rename(tmp_path / "away")
    house.sources[0].put(frame(1.0))
    await house.until(lambda: "cannot write" in house.of("status")[-1]["reason"])
    assert house.of("status")[-1]["state"] == "live"
    house.sources[0].put(frame(2.0))
    away.rename(out)
    await house.until(lambda: house.of("status")[-1]["reason"] == "")
    await house.streams.close()
    assert len((out / "door.jsonl").read_text().splitlines()) == 3


async def test_what_is_lost_is_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.service.filing.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("streamcap.service.filing.PENDING_FINALS", 1)
    await live(house)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaptionFiles, "append", refuse)
    house.sources[0].put(frame(5.0))
    await house.until(lambda: len(house.of("caption")) == 2)
    house.sources[0].put(frame(6.0))
    await house.until(lambda: len(house.of("caption")) == 3)
    # Moments 1 to 4 had no frame, in an opening of the source as in the one before.
    house.sources[0].put(SourceLost("gone"))
    await wait_sources(house, 2)
    monkeypatch.setattr(House, "_pixels", staticmethod(lambda *_: (_ for _ in ()).throw(ValueError("no picture"))))
    house.sources[1].put(frame(0.0))
    house.sources[1].put(frame(3.0))
    door = house.streams.get("door")
    async with asyncio.timeout(PATIENCE):
        while door.view().convert_failed < 2 or not door.view().files_dropped:
            await asyncio.sleep(0.005)
    view = door.view()
    assert (view.missed, view.convert_failed, view.files_dropped) == (6, 2, 1)


async def test_names_are_checked_and_found(house: House) -> None:
    await live(house)
    with pytest.raises(DuplicateStreamError, match="door"):
        await house.streams.add("door", URL)
    with pytest.raises(InputError, match="stream name"):
        await house.streams.add("../door", URL)
    with pytest.raises(UnknownStreamError, match="there are: door"):
        house.streams.get("garden")
    with pytest.raises(UnknownStreamError):
        await house.streams.remove("garden")


async def test_more_streams_than_the_service_takes_are_refused_until_one_goes() -> None:
    house = House(max_streams=1)
    await house.streams.add("door", URL)
    with pytest.raises(TooManyStreamsError, match="1 streams already, the most"):
        await house.streams.add("yard", URL)
    await house.streams.remove("door")
    await house.streams.add("yard", URL)
    await house.streams.close()


async def test_a_stream_without_a_name_gets_one_from_its_url(house: House) -> None:
    names = [(await house.streams.add(None, url)).name for url in (URL, URL, "rtsp://yard.example:8554", "scenes:")]
    assert names == ["live", "live-2", "yard.example", "scenes"]


async def test_a_removed_stream_is_gone_and_its_name_free(house: House) -> None:
    await live(house)
    await house.streams.remove("door")
    assert house.forgotten == ["door"]
    assert house.streams.names() == []
    assert house.sources[0].closed == 1
    await house.until(lambda: house.states("door")[-1] == "ended")
    await live(house)


@pytest.mark.parametrize("filed", [False, True])
async def test_a_stream_added_anew_goes_on_with_the_numbers_of_the_one_removed(tmp_path: Path, filed: bool) -> None:
    house = House(tmp_path if filed else None, every=1.0)
    await live(house)
    shown = Interim(replace(house.samples[0], start=1.0), "a man", Times(0.0, 0.0, 0.0))
    house.streams.dispatch([shown])
    await house.until(lambda: len(house.of("caption")) == 2)
    await house.streams.remove("door")
    # One that was removed before it began forgets nothing.
    adding = asyncio.create_task(house.streams.add("door", URL))
    await asyncio.sleep(0)
    await house.streams.remove("door")
    with contextlib.suppress(InputError):
        await adding
    await live(house)
    seqs = [m["seq"] for m in house.messages if "seq" in m]
    assert seqs == sorted(set(seqs))
    assert house.of("caption")[-1]["id"] not in {m["id"] for m in house.of("caption")[:-1]}
    # Who missed the removal is told by a gap that it cannot be had.
    last = max(m["seq"] for m in house.of("status") if m["state"] == "ended")
    _, gap = (json.loads(text) for text in house.hub.subscribe(Wish(), lambda: None, last - 1).take()[:2])
    assert (gap["type"], gap["from"]) == ("gap", last)
    await house.streams.close()


async def test_names_that_were_removed_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "NAMES_KEPT", 2)
    house = House()
    for name in ("one", "two", "one", "three", "four"):
        await house.streams.add(name, URL)
        await house.streams.remove(name)
    assert list(house.streams._numbers) == ["three", "four"]


async def test_a_stream_added_anew_is_no_part_of_a_removal_that_is_under_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live(house)
    goes_on, end = asyncio.Event(), streams._end

    async def slowly(tasks: list[asyncio.Task[None]]) -> None:
        await end(tasks)
        await goes_on.wait()

    monkeypatch.setattr(streams, "_end", slowly)
    removing = asyncio.create_task(house.streams.remove("door"))
    await asyncio.sleep(0)
    monkeypatch.setattr(streams, "_end", end)
    await house.streams.remove("door")
    await live(house)
    goes_on.set()
    await removing
    assert house.streams.names() == ["door"]
    house.sources[1].put(frame(1.0))
    await house.until(lambda: len(house.of("caption")) == 3)


async def test_a_stream_removed_while_its_past_is_read_leaves_its_name_to_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, goes_on, past = threading.Event(), threading.Event(), CaptionFiles.past

    def slowly(files: CaptionFiles, window: float) -> Past:
        reading.set()
        goes_on.wait(PATIENCE)
        return past(files, window)

    monkeypatch.setattr(CaptionFiles, "past", slowly)
    adding = asyncio.create_task(house.streams.add("door", URL))
    await asyncio.to_thread(reading.wait, 10)
    await house.streams.remove("door")
    # Its files are still in use; a moment later they are free.
    with pytest.raises(FilesInUseError, match="being written by another"):
        await house.streams.add("door", URL)
    goes_on.set()
    with pytest.raises(InputError, match="removed before it began"):
        await adding
    await live(house)


async def test_no_secret_is_logged_or_shown(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await live(house)
    house.sources[0].put(RuntimeError(f"no route to {URL}"))
    await house.until(lambda: "reconnecting" in house.states("door"))
    assert "hunter2" not in json.dumps(house.messages)
    assert "hunter2" not in str(house.streams.get("door").view())
    assert not [r for r in caplog.records if "hunter2" in r.getMessage()]


async def test_close_twice(house: House) -> None:
    await live(house)
    await house.streams.close()
    await house.streams.close()
