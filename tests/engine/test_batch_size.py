from __future__ import annotations

import pytest

from streamcap.engine.batch_size import MAX_SECONDS, MIN_SHARE, TARGET_SECONDS, BatchSize


def run(size: BatchSize, waiting: int, seconds_each: float, batches: int = 30) -> int:
    for _ in range(batches):
        samples = min(waiting, size.limit)
        size.note(samples, samples * seconds_each)
    return size.limit


def test_slow_model_gets_small_batches() -> None:
    size = BatchSize(64)
    limit = run(size, 64, 0.05)
    assert TARGET_SECONDS / 2 <= limit * 0.05 <= TARGET_SECONDS


def test_one_sample_is_always_taken() -> None:
    assert run(BatchSize(64), 64, 30.0) == 1


def test_fast_model_gets_large_batches_again() -> None:
    size = BatchSize(64)
    run(size, 64, 0.05)
    assert run(size, 64, 0.001) == 64


def test_small_batches_say_nothing_about_large_ones() -> None:
    size = BatchSize(64)
    run(size, 64, 0.05)
    before = size.limit
    assert run(size, 2, 0.001) == before


def test_long_queue_gets_larger_batches() -> None:
    """0.3 s for each batch and 0.05 s for each sample, as a busy machine needs them."""
    size = BatchSize(64)
    for _ in range(30):
        samples = size.limit
        seconds = 0.3 + 0.05 * samples
        size.note(samples, seconds, waiting=64)
    assert MIN_SHARE * 64 / 4 <= size.limit <= MIN_SHARE * 64
    assert seconds <= MAX_SECONDS


def measured(fixed: float, each: float) -> BatchSize:
    """A model whose batch of n takes `fixed + each * n` seconds, which has been measured."""
    size = BatchSize(64)
    for _ in range(5):
        size.note(1, fixed + each, waiting=1)
        size.note(3, fixed + 3 * each, waiting=3)
    return size


def test_samples_bound_by_arithmetic_go_alone() -> None:
    size = measured(fixed=0.002, each=0.02)
    assert [size.choose(waiting) for waiting in (4, 3, 2, 1)] == [1, 1, 1, 1]


def test_samples_that_share_most_of_the_cost_go_together() -> None:
    assert measured(fixed=0.1, each=0.02).choose(4) == 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.5, 4.0])
@pytest.mark.parametrize("waiting", [2, 3, 4, 8, 12])
def test_mean_latency_is_near_the_lowest(waiting: int, share: float) -> None:
    each = 0.005
    size = measured(fixed=share * each, each=each)

    def mean_latency(batch: int) -> float:
        ends = [
            share * each * (row // batch + 1) + each * min(waiting, (row // batch + 1) * batch)
            for row in range(waiting)
        ]
        return sum(ends) / waiting

    best = min(mean_latency(batch) for batch in range(1, waiting + 1))
    assert mean_latency(size.choose(waiting)) <= 1.06 * best


def test_backlog_is_taken_in_whole_batches() -> None:
    size = measured(fixed=0.002, each=0.02)
    assert size.choose(int(TARGET_SECONDS / 0.022) + 1) == int(TARGET_SECONDS / 0.022) + 1


def test_unmeasured_model_takes_all() -> None:
    assert BatchSize(64).choose(4) == 4
    assert BatchSize(2).choose(4) == 2


def test_changed_costs_are_noticed() -> None:
    """Drafts have become wrong: the weights are read for each token again, which rows of a batch share."""
    size = measured(fixed=0.002, each=0.02)
    fixed, each, batches = 0.1, 0.02, []
    for _ in range(200):
        samples = size.choose(4)
        batches.append(samples)
        size.note(samples, fixed + each * samples, waiting=4)
    assert batches[0] == 1
    assert batches[-10:] == [4] * 10
