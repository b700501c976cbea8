"""Cameras that send their keyframes at the same instant."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

from streamcap.media.demand import FrameChoice
from tests.streams.fakes import URL, FakeService, frame, wait_sources

NAMES = "door", "yard"


async def test_cameras_in_step_are_captioned_in_turn() -> None:
    service = FakeService(every=1.0)
    began = time.monotonic()
    for name in NAMES:
        await service.streams.add(name, URL)
    await wait_sources(service, 2)
    for source in service.sources:
        source.choice = FrameChoice(keyframes=0.5)
    for second in range(20):
        for source, keyframe in itertools.product(service.sources, (0.0, 0.5)):
            seconds = second + keyframe
            source.put(replace(frame(seconds), arrived=began + seconds, spacing=0.5))
        await service.until(lambda: all(max(starts(service, name), default=-1.0) >= second for name in NAMES))  # noqa: B023
    door, yard = ([one for one in starts(service, name) if 10 <= one < 18] for name in NAMES)
    assert len(door) == len(yard) == 8
    assert not set(door) & set(yard)
    await service.streams.close()


async def test_one_of_two_in_step_asks_for_a_later_frame() -> None:
    service = FakeService(every=1.0)
    began = time.monotonic()
    for name in NAMES:
        await service.streams.add(name, URL)
    await wait_sources(service, 2)
    for source in service.sources:
        source.choice = FrameChoice(keyframes=1.0, frames=0.1)
    for second in range(16):
        for source in service.sources:
            assert source.demand is not None
            seconds = second + source.demand.after
            source.put(replace(frame(seconds), arrived=began + seconds, spacing=1.0))
        await service.until(lambda: all(max(starts(service, name), default=-1.0) >= second for name in NAMES))  # noqa: B023
    assert sorted(source.demand.after for source in service.sources if source.demand is not None) == [0.0, 0.1]
    await service.streams.close()


def starts(service: FakeService, name: str) -> list[float]:
    return [sample.start for sample in service.samples if sample.stream == name]
