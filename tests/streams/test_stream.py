"""How a stream handles the engine's outcomes: unconfirmed, unchanged, late."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamcap.captions.subscription import SubscribeOptions
from streamcap.engine.outcome import Captioned, Failed, Interim, Times, Unchanged, Unconfirmed
from streamcap.media.frame import Sample, SampledImage
from streamcap.media.sources.base import SourceInfo
from streamcap.media.timing.wait_clock import WaitClock
from streamcap.streams.counters import Counters
from streamcap.streams.options import DEFAULT_MIN_CONFIDENCE
from streamcap.streams.overload import OverloadDetector
from streamcap.streams.storage.caption_files import CaptionFiles
from streamcap.streams.storage.file_rotation import RotationOptions
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import FakeService, MadeSource, frame


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService(every=1.0)
    yield service
    await service.streams.close()


async def first_sample(service: FakeService) -> Sample:
    """The stream `door`, live, with one caption at 0 s."""
    await service.streams.add("door", "rtsp://camera/1")
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not service.sources:
            await asyncio.sleep(0.005)
    service.sources[0].put(frame(0.0))
    await service.until(lambda: len(service.of("caption")) == 1)
    return service.samples[0]


async def test_confirmed_caption_starts_at_first_sample(service: FakeService) -> None:
    seen = await first_sample(service)
    first = replace(seen, start=1.0, captured_at=seen.captured_at + 1, arrived=seen.arrived)
    second = replace(seen, start=2.0, captured_at=seen.captured_at + 2, arrived=time.monotonic())
    service.streams.dispatch([Unconfirmed(first)])
    now = time.monotonic()
    service.streams.dispatch([Captioned(second, "a man comes", -0.1, Times(now, now, now), first)])
    await service.until(lambda: len(service.of("extend")) == 1)
    final, (extend,) = service.of("caption")[-1], service.of("extend")
    assert (final["text"], final["start"], extend["id"], extend["end"]) == ("a man comes", 1.0, final["id"], 3.0)
    assert final["latency_ms"]["total"] >= 1000 * (second.arrived - first.arrived)
    assert [(cue.start_ms, cue.end_ms) for cue in service.streams.get("door").track.cues] == [(0, 1000), (1000, 3000)]


async def test_skipped_decodes_are_counted(service: FakeService) -> None:
    seen = await first_sample(service)
    for second, decoded in ((1.0, False), (2.0, True), (3.0, False)):
        service.streams.dispatch([Unchanged(replace(seen, start=second), decoded=decoded)])
    view = service.streams.get("door").view()
    assert (view.extended, view.decode_skipped) == (3, 2)


async def test_doubtful_caption_is_held_back(service: FakeService) -> None:
    seen = await first_sample(service)
    samples = [replace(seen, start=float(second)) for second in range(1, 6)]
    now = time.monotonic()
    times = Times(now, now, now)
    service.streams.dispatch(
        [
            Captioned(samples[0], "a man waits", -0.1, times, confidence=DEFAULT_MIN_CONFIDENCE),
            Interim(samples[1], "a dog", times),  # nobody knows yet whether it is true
            Captioned(samples[1], "a dog flies", -0.1, times, confidence=DEFAULT_MIN_CONFIDENCE - 0.01),
            Unchanged(samples[2], decoded=False),  # unchanged since the dog
            Captioned(samples[3], "a man sits", -0.1, times, confidence=0.9),
            Unchanged(samples[4], decoded=False),
        ]
    )
    await service.until(lambda: len(service.of("extend")) == 1)
    captions = [(caption["text"], caption["confidence"]) for caption in service.of("caption")[1:]]
    assert captions == [("a man waits", DEFAULT_MIN_CONFIDENCE), ("a man sits", 0.9)]
    # The caption before the dog ended when the dog came.
    assert [(cue.start_ms, cue.end_ms) for cue in service.streams.get("door").track.cues[1:]] == [
        (1000, 2000),
        (4000, 6000),
    ]
    assert service.streams.get("door").view().captions_held_back == 1


async def test_held_back_caption_ends_the_current_one(service: FakeService) -> None:
    seen = await first_sample(service)
    service.streams.dispatch([Captioned(replace(seen, start=1.0), "a dog", -0.1, Times(0, 0, 0), confidence=0.1)])
    subscription = service.hub.subscribe(SubscribeOptions(), lambda: None)
    assert [json.loads(text)["type"] for text in subscription.take()] == ["hello", "status"]


@pytest.mark.parametrize("end", ["held back", "removed"])
async def test_interim_without_caption_ends_without_text(service: FakeService, end: str) -> None:
    """A remote server fails in mid-answer, and the fallback is not sure; or the stream is removed."""
    seen = await first_sample(service)
    asked = replace(seen, start=1.0, images=(SampledImage(seen.pixels, 0.0),))
    times = Times(0.0, 0.0, 0.0)
    service.streams.dispatch([Interim(asked, "a dog", times), Failed(asked, "the answer broke off")])
    if end == "held back":
        fallback = replace(seen, start=1.0)
        service.streams.dispatch([Captioned(fallback, "a cat flies", -0.1, times, confidence=0.1)])
        service.streams.dispatch([Unchanged(replace(fallback, start=2.0), decoded=False)])
    track = service.streams.get("door").track
    if end == "removed":
        await service.streams.remove("door")
    await service.until(lambda: len(service.of("caption")) == 3)
    interim, final = service.of("caption")[1:]
    assert (interim["text"], final["text"], final["is_final"]) == ("a dog", "", True)
    assert (final["id"], final["revision"]) == (interim["id"], interim["revision"] + 1)
    assert not service.of("extend") and all(cue.text for cue in track.cues)
    subscription = service.hub.subscribe(SubscribeOptions(), lambda: None)
    assert "caption" not in {json.loads(text)["type"] for text in subscription.take()}


async def test_interim_of_failed_decoding_repeats_the_last_final(service: FakeService) -> None:
    seen = await first_sample(service)
    shown, after = (replace(seen, start=float(second)) for second in (1, 2))
    times = Times(0.0, 0.0, 0.0)
    service.streams.dispatch([Captioned(shown, "a man", -0.4, times), Interim(shown, "a dog", times)])
    service.streams.dispatch([Failed(shown, "out of memory"), Unchanged(after, decoded=False)])
    await service.until(lambda: bool(service.of("extend")))
    interim, final = service.of("caption")[-2:]
    assert (interim["text"], final["text"], final["is_final"]) == ("a dog", "a man", True)
    assert final["id"] == interim["id"] == service.of("extend")[0]["id"]


async def test_model_without_confidence_is_never_held_back(service: FakeService) -> None:
    seen = await first_sample(service)
    sample = replace(seen, start=1.0)
    times = Times(0.0, 0.0, 0.0)
    service.streams.dispatch([Interim(sample, "a", times), Captioned(sample, "a dog", -9.0, times)])
    await service.until(lambda: len(service.of("caption")) == 3)
    assert [caption["confidence"] for caption in service.of("caption")] == [None, None, None]


async def test_failing_model_is_reported_until_it_recovers(service: FakeService) -> None:
    seen = await first_sample(service)
    failed = Failed(replace(seen, start=1.0), "RuntimeError: at rtsp://admin:hunter2@cam")
    service.streams.dispatch([failed, failed])
    await service.until(lambda: service.of("status")[-1]["reason"] != "")
    assert service.of("status")[-1]["reason"] == "captioning failed: RuntimeError: at rtsp://admin:***@cam"
    service.streams.dispatch([Unchanged(replace(seen, start=2.0), decoded=True)])
    await service.until(lambda: service.of("status")[-1]["reason"] == "")
    assert service.states("door") == ["connecting", "live", "live", "live"]


async def test_invalid_outcome_of_one_stream_keeps_others(service: FakeService) -> None:
    seen = await first_sample(service)
    now = time.monotonic()
    # A time outside of datetime's range.
    broken = Captioned(replace(seen, start=1.0, captured_at=1e30), "lost", -0.1, Times(now, now, now))
    whole = Captioned(replace(seen, start=2.0), "kept", -0.1, Times(now, now, now))
    service.streams.dispatch([broken, whole])
    await service.until(lambda: len(service.of("caption")) == 2)
    assert service.of("caption")[-1]["text"] == "kept"


class BusySource(MadeSource):
    """Never waits for its camera: its thread has more work than it can do."""

    waits = WaitClock()


async def test_camera_is_not_blamed_for_our_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.streams.fakes.MadeSource", BusySource)
    service = FakeService(every=1.0, stall_after=1.2)
    await first_sample(service)
    await asyncio.sleep(1.8)  # longer than `stall_after`: no event says that nothing happened
    assert service.states("door") == ["connecting", "live"]
    assert service.streams.get("door").view().lag > 0.2
    await service.streams.close()


async def test_silent_camera_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    class IdleSource(MadeSource):
        def open(self) -> SourceInfo:
            self.waits = WaitClock()
            self.waits.begin(time.monotonic())
            return super().open()

    monkeypatch.setattr("tests.streams.fakes.MadeSource", IdleSource)
    service = FakeService(every=1.0, stall_after=0.3)
    await first_sample(service)
    await service.until(lambda: "stalled" in service.states("door"))
    await service.streams.close()


async def test_overload_status_reaches_viewers_and_ends(service: FakeService) -> None:
    seen = await first_sample(service)
    door = service.streams.get("door")
    clock = [0.0]
    service.streams.overload = OverloadDetector(lambda: clock[0])
    for _ in range(8):
        clock[0] += 1
        late = replace(seen, start=clock[0], arrived=time.monotonic() - 9)
        service.streams.dispatch([Unchanged(late, decoded=False)])
        service.streams.check_load()
    await service.until(lambda: service.of("status")[-1]["reason"] != "")
    status = service.of("status")[-1]
    assert (status["state"], status["reason"]) == ("live", "overloaded: a caption every 1.5 s, not every 1 s")
    view = door.view()
    assert view.late and view.lag > 8 and (view.every, view.effective_every) == (1.0, 1.5)
    fresh = replace(seen, start=20.0, arrived=time.monotonic())
    door.publisher.pending.submit(fresh, lambda sample: None)
    service.streams.dispatch([Unchanged(fresh, decoded=False)])
    for _ in range(40):
        clock[0] += 1
        service.streams.check_load()
    await service.until(lambda: service.of("status")[-1]["reason"] == "")
    assert (door.view().late, door.view().effective_every) == (False, 1.0)


async def test_restart_continues_time_after_static_scene(tmp_path: Path) -> None:
    first = FakeService(tmp_path, every=1.0)
    seen = await first_sample(first)
    first.streams.dispatch([Unchanged(replace(seen, start=40.0), decoded=False)])
    await first.until(lambda: len(first.of("extend")) == 1)
    await first.streams.close()
    second = FakeService(tmp_path, every=1.0)
    await first_sample(second)
    await second.streams.close()
    assert second.of("caption")[0]["start"] == first.of("extend")[0]["end"] == 41.0
    # The same caption again joins the long cue before it.
    assert "00:00:00.000 --> 00:00:42.000" in (tmp_path / "door.vtt").read_text()


async def test_restart_keeps_cues_of_subtitle_files(tmp_path: Path) -> None:
    first = FakeService(tmp_path, every=1.0)
    seen = await first_sample(first)
    now = time.monotonic()
    for second in range(1, 40):
        sample = replace(seen, start=float(second))
        new = Captioned(sample, f"{second} dogs", -0.5, Times(now, now, now))
        first.streams.dispatch([new if second % 10 == 0 else Unchanged(sample, decoded=False)])
    await first.until(lambda: len(first.of("extend")) == 36)
    await first.streams.close()
    before = (tmp_path / "door.vtt").read_text()
    assert before.count("-->") == 4
    second_run = FakeService(tmp_path, every=1.0, replay_events=1)
    await first_sample(second_run)
    await second_run.streams.close()
    after = (tmp_path / "door.vtt").read_text()
    assert after.startswith(before) and after.count("-->") == 5


def rotated_parts(out: Path) -> list[Path]:
    return list(out.glob("door.jsonl.*"))


async def test_restart_after_rotations_keeps_subtitles(tmp_path: Path) -> None:
    rotation = RotationOptions(rotate_bytes=4096)
    first = FakeService(tmp_path, every=1.0, rotation=rotation)  # type: ignore[arg-type]
    seen = await first_sample(first)
    now = time.monotonic()
    for second in range(1, 40):
        first.streams.dispatch(
            [Captioned(replace(seen, start=float(second)), f"{second} dogs", -0.5, Times(now, now, now))]
        )
    await first.until(lambda: len(first.of("caption")) == 40)
    await first.streams.close()
    before = (tmp_path / "door.srt").read_text()
    assert before.count("-->") == 40 and len(rotated_parts(tmp_path)) >= 2
    second_run = FakeService(tmp_path, every=1.0, rotation=rotation)  # type: ignore[arg-type]
    await first_sample(second_run)
    assert second_run.of("caption")[0]["seq"] > first.of("caption")[-1]["seq"]
    replayed = second_run.hub.subscribe(SubscribeOptions(), lambda: None, {"door": 0}).take()
    await second_run.streams.close()
    assert (tmp_path / "door.srt").read_text().startswith(before)
    texts = [json.loads(text).get("text") for text in replayed]
    assert [f"{second} dogs" for second in range(1, 40)] == [text for text in texts if text and "dogs" in text]


async def test_interim_id_is_not_reused_after_crash(tmp_path: Path) -> None:
    first = FakeService(tmp_path / "first", every=1.0)
    seen = await first_sample(first)
    for second in (1.0, 2.0):
        sample = replace(seen, start=second)
        first.streams.dispatch([Interim(sample, "a man", Times(0.0, 0.0, 0.0)), Unchanged(sample, decoded=True)])
    await first.until(lambda: len(first.of("extend")) == 2)
    # The files as a kill would leave them now. A file that is being written may be renamed meanwhile.
    shutil.copytree(tmp_path / "first", tmp_path / "left", ignore=shutil.ignore_patterns("*.partial"))
    second_run = FakeService(tmp_path / "left", every=1.0)
    await first_sample(second_run)
    assert second_run.of("caption")[0]["id"] not in {m["id"] for m in first.of("caption")}
    for service in (first, second_run):
        await service.streams.close()


@pytest.mark.parametrize("rotated", [False, True])
async def test_time_goes_on_after_a_kill(tmp_path: Path, rotated: bool) -> None:
    first = FakeService(tmp_path / "first", every=1.0)
    seen = await first_sample(first)
    first.streams.dispatch([Unchanged(replace(seen, start=30.0), decoded=True)])
    first.streams.dispatch([Interim(replace(seen, start=31.4, epoch=3), "a man", Times(0.0, 0.0, 0.0))])
    await first.until(lambda: len(first.of("caption")) == 2)
    shutil.copytree(tmp_path / "first", tmp_path / "left", ignore=shutil.ignore_patterns("*.partial"))
    if rotated:
        (tmp_path / "left" / "door.jsonl").rename(tmp_path / "left" / "door.jsonl.1")
    second = FakeService(tmp_path / "left", every=1.0)
    await first_sample(second)
    (caption,) = second.of("caption")
    assert caption["start"] >= first.of("caption")[-1]["end"] == 32.4
    assert caption["epoch"] == 4
    assert caption["id"] not in {m["id"] for m in first.of("caption")}
    assert caption["seq"] > max(m["seq"] for m in first.messages if "seq" in m)
    for service in (first, second):
        await service.streams.close()


@pytest.mark.parametrize("filed", [False, True])
async def test_time_goes_on_when_added_anew(tmp_path: Path, filed: bool) -> None:
    service = FakeService(tmp_path if filed else None, every=1.0)
    seen = await first_sample(service)
    service.streams.dispatch([Unchanged(replace(seen, start=30.0), decoded=True)])
    service.streams.dispatch([Interim(replace(seen, start=31.0, epoch=2), "a man", Times(0.0, 0.0, 0.0))])
    await service.until(lambda: len(service.of("caption")) == 2)
    await service.streams.remove("door")
    await service.streams.add("door", "rtsp://camera/1")
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while len(service.sources) < 2:
            await asyncio.sleep(0.005)
    service.sources[1].put(frame(0.0))
    await service.until(lambda: len(service.of("caption")) == 4)  # removed: the interim has a final
    assert service.of("caption")[-1]["start"] >= 32.0
    assert service.of("caption")[-1]["epoch"] == 3
    await service.streams.close()


async def test_nothing_is_shown_beyond_the_reservation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.streams.publishing.feed_writer.RETRY_SECONDS", 0.05)
    service = FakeService(tmp_path, every=1.0)
    seen = await first_sample(service)
    write = CaptionFiles.write_counters
    tries = 0

    def refuse(files: CaptionFiles, counters: Counters) -> None:
        nonlocal tries
        tries += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaptionFiles, "write_counters", refuse)
    for second in range(1, 30):
        service.streams.dispatch([Unchanged(replace(seen, start=float(second)), decoded=True)])
    await service.until(lambda: "No space left" in service.of("status")[-1]["reason"])
    kept = CaptionFiles(tmp_path, "door").load_history(3600.0).counters
    assert kept.time >= max(extend["end"] for extend in service.of("extend"))
    assert kept.seq > max(m["seq"] for m in service.messages if "seq" in m)
    monkeypatch.setattr(CaptionFiles, "write_counters", write)
    await service.until(lambda: service.of("extend")[-1]["end"] == 30.0)
    assert tries and service.streams.dropped_finals == 0
    await service.streams.close()
