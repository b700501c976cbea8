"""The mask of a running stream: its samples, and the frames that viewers see."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from streamcap.media.orientation import show
from streamcap.streams.settings import StreamSettings
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import FakeService, frame

LEFT_HALF = ((0.0, 0.0), (0.45, 0.0), (0.45, 1.0), (0.0, 1.0))


def sides(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> tuple[int, int]:
    """The values at the left and at the right."""
    return int(pixels[..., 8, 2, 0].max()), int(pixels[..., 8, 12, 0].max())


@pytest.mark.parametrize("clip_length", [None, 3])
async def test_mask_acts_on_the_next_frame(clip_length: int | None) -> None:
    service = FakeService(every=0.02, clip_length=clip_length)
    stream = await service.streams.add("door", "rtsp://door")
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not service.sources:
            await asyncio.sleep(0.005)
    (source,) = service.sources

    async def sampled(number: int) -> tuple[int, int]:
        source.put(frame(float(number), gray=200))
        await service.until(lambda: len(service.samples) == number + 1)
        newest = stream.newest_frame()
        assert newest is not None
        assert sides(show(newest.video_frame)) == sides(service.samples[-1].pixels)
        return sides(service.samples[-1].pixels)

    assert await sampled(0) == (200, 200)
    service.streams.change("door", StreamSettings(mask=(LEFT_HALF,)))
    assert stream.newest_frame() is None
    assert await sampled(1) == (128, 200)
    service.streams.change("door", StreamSettings(mask=(LEFT_HALF,), every=0.03))
    assert stream.newest_frame() is not None
    service.streams.change("door", StreamSettings())
    assert await sampled(2) == (200, 200)
    await service.streams.close()


async def test_stream_is_masked_from_its_first_frame() -> None:
    service = FakeService()
    await service.streams.add("door", "rtsp://door", StreamSettings(mask=(LEFT_HALF,)))
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not service.sources:
            await asyncio.sleep(0.005)
    service.sources[0].put(frame(0.0, gray=200))
    await service.until(lambda: len(service.samples) == 1)
    assert sides(service.samples[0].pixels) == (128, 200)
    await service.streams.close()
