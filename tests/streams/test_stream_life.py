"""One stream as its viewers see it: captions, states, reconnections, its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from streamcap.media.sources.base import SourceEnded, SourceLost, SourceRefused
from streamcap.streams.backoff import Backoff
from streamcap.streams.settings import StreamSettings
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import URL, FakeService, frame, live, wait_sources


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


async def test_removed_stream_forgets_its_frames(service: FakeService) -> None:
    await live(service)
    stream = service.streams.get("door")
    assert stream.newest_frame() is not None
    await service.streams.remove("door")
    assert stream.newest_frame() is None


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


async def test_camera_with_unwanted_frames_is_not_stalled() -> None:
    service = FakeService(every=1.0, stall_after=0.2)
    await live(service)
    skipped = service.sources[0].skipped = time.monotonic() + 0.5
    await service.until(lambda: service.states("door")[-1] == "stalled")
    assert time.monotonic() - skipped >= 0.2
    await service.streams.close()


async def test_source_learns_what_is_wanted() -> None:
    service = FakeService(every=2.0)
    await live(service)
    demand, stream = service.sources[0].demand, service.streams.get("door")
    assert demand is not None and (demand.decode, demand.every, demand.viewers) == ("auto", 2.0, 0)
    service.sources[0].put(frame(0.5))
    service.sources[0].put(frame(2.0))
    await service.until(lambda: len(service.of("caption")) == 2)
    stream.watch()
    stream.change(StreamSettings(every=0.5, decode="all"))
    assert (demand.decode, demand.every, demand.viewers) == ("all", 0.5, 1)
    stream.unwatch()
    assert demand.viewers == 0
    await service.streams.close()


async def test_clip_model_wants_the_frames_of_a_clip() -> None:
    service = FakeService(every=1.0, clip_length=4, clip_seconds=2.0)
    await live(service)
    demand = service.sources[0].demand
    assert demand is not None and demand.every == 0.5
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
