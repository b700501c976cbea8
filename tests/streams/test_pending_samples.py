"""How late outcomes are, and which of them still count."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from streamcap.media.frame import Pixels, Sample, SampledImage
from streamcap.streams.pending_samples import PendingSamples
from testbed.timeouts import TIMEOUT_FACTOR

PIXELS: Pixels = np.zeros((2, 2, 3), np.uint8)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pending(clock: Clock) -> PendingSamples:
    return PendingSamples(clock)


def sample(arrived: float, *, remote: bool = False) -> Sample:
    images = (SampledImage(PIXELS, 0.0),) if remote else ()
    return Sample("door", PIXELS, 0, arrived, arrived, "arrival", arrived, arrived, images=images)


def ignored(_: Sample) -> None:
    """An engine."""


def test_sample_after_the_end_is_not_given(pending: PendingSamples) -> None:
    given: list[float] = []
    pending.submit(sample(101.0), lambda one: given.append(one.start))
    pending.close()
    pending.submit(sample(102.0), lambda one: given.append(one.start))
    assert given == [101.0]


def test_delay_grows_while_the_oldest_sample_waits(pending: PendingSamples) -> None:
    pending.submit(sample(101.0), ignored)
    pending.submit(sample(102.0), ignored)
    assert pending.delay(104.0) == 3.0


def test_delay_is_that_of_the_newest_outcome(pending: PendingSamples, clock: Clock) -> None:
    pending.submit(sample(101.0), ignored)
    clock.now = 101.5
    pending.answer(sample(101.0))
    assert (pending.delay(150.0), pending.age(103.0)) == (0.5, 2.0)


def test_newer_sample_waits_after_an_older_ones_outcome(pending: PendingSamples, clock: Clock) -> None:
    pending.submit(sample(101.0), ignored)
    pending.submit(sample(102.0), ignored)
    clock.now = 102.1
    pending.answer(sample(101.0))
    assert pending.delay(105.0) == 3.0


def test_a_remote_models_time_is_no_delay(pending: PendingSamples, clock: Clock) -> None:
    pending.submit(sample(101.0, remote=True), ignored)
    assert pending.delay(109.0) == 0.0
    clock.now = 109.0
    pending.answer(sample(101.0, remote=True))
    assert pending.delay(110.0) == 0.0


def test_outcomes_of_an_earlier_stream_do_not_count(pending: PendingSamples) -> None:
    assert not pending.accepts(sample(99.0))
    assert pending.accepts(sample(101.0))
    pending.close()
    assert not pending.accepts(sample(101.0))


async def test_drain_waits_for_the_newest_sample(pending: PendingSamples) -> None:
    newest = sample(102.0)
    pending.submit(sample(101.0), ignored)
    pending.submit(newest, ignored)
    draining = asyncio.create_task(pending.drain())
    pending.answer(sample(101.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not draining.done()
    pending.answer(replace(newest, model="fallback"))  # the copy that another model captioned
    await asyncio.wait_for(draining, TIMEOUT_FACTOR)
