"""What a stream makes of the engine's word that a sentence waits, holds or came late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from streamcap.engine.outcome import Captioned, Doubtful, Times, Unchanged
from streamcap.media.frame import Sample
from tests.service.made import House, frame


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House(every=1.0)
    yield house
    await house.streams.close()


async def first_sample(house: House) -> Sample:
    """The stream `door`, live, with one caption at 0 s."""
    await house.streams.add("door", "rtsp://camera/1")
    async with asyncio.timeout(10):
        while not house.sources:
            await asyncio.sleep(0.005)
    house.sources[0].put(frame(0.0))
    await house.until(lambda: len(house.of("caption")) == 1)
    return house.samples[0]


async def test_a_sentence_that_the_next_sample_bears_out_begins_with_the_first(house: House) -> None:
    seen = await first_sample(house)
    first = replace(seen, start=1.0, captured_at=seen.captured_at + 1, arrived=seen.arrived)
    second = replace(seen, start=2.0, captured_at=seen.captured_at + 2, arrived=time.monotonic())
    house.streams.dispatch([Doubtful(first)])
    now = time.monotonic()
    house.streams.dispatch([Captioned(second, "a man comes", -0.1, Times(now, now, now), first)])
    await house.until(lambda: len(house.of("extend")) == 1)
    final, (extend,) = house.of("caption")[-1], house.of("extend")
    assert (final["text"], final["start"], extend["id"], extend["end"]) == ("a man comes", 1.0, final["id"], 3.0)
    assert final["latency_ms"]["total"] >= 1000 * (second.arrived - first.arrived)
    assert [(cue.start_ms, cue.end_ms) for cue in house.streams.get("door").track.cues] == [(0, 1000), (1000, 3000)]


async def test_samples_whose_decode_was_skipped_are_counted(house: House) -> None:
    seen = await first_sample(house)
    for second, decoded in ((1.0, False), (2.0, True), (3.0, False)):
        house.streams.dispatch([Unchanged(replace(seen, start=second), decoded=decoded)])
    view = house.streams.get("door").view()
    assert (view.extended, view.decode_skipped) == (3, 2)
