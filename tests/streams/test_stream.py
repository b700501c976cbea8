"""What a stream makes of the engine's word that a sentence waits, holds or came late."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamcap.engine.outcome import Captioned, Failed, Interim, Times, Unchanged, Unconfirmed
from streamcap.media.frame import Sample
from tests.streams.fakes import FakeService, frame
from tests.timeouts import TIMEOUT_FACTOR


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
    # A moment that no calendar has.
    broken = Captioned(replace(seen, start=1.0, captured_at=1e30), "lost", -0.1, Times(now, now, now))
    whole = Captioned(replace(seen, start=2.0), "kept", -0.1, Times(now, now, now))
    service.streams.dispatch([broken, whole])
    await service.until(lambda: len(service.of("caption")) == 2)
    assert service.of("caption")[-1]["text"] == "kept"


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
    # The same sentence again: one cue with the long one of before.
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


async def test_interim_id_is_not_reused_after_crash(tmp_path: Path) -> None:
    first = FakeService(tmp_path / "first", every=1.0)
    seen = await first_sample(first)
    for second in (1.0, 2.0):
        sample = replace(seen, start=second)
        first.streams.dispatch([Interim(sample, "a man", Times(0.0, 0.0, 0.0)), Unchanged(sample, decoded=True)])
    await first.until(lambda: len(first.of("extend")) == 2)
    # As they lie on the disk when the process is killed now; a file that is being written may be renamed meanwhile.
    shutil.copytree(tmp_path / "first", tmp_path / "left", ignore=shutil.ignore_patterns("*.partial"))
    second_run = FakeService(tmp_path / "left", every=1.0)
    await first_sample(second_run)
    assert second_run.of("caption")[0]["id"] not in {m["id"] for m in first.of("caption")}
    for service in (first, second_run):
        await service.streams.close()
