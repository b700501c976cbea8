from __future__ import annotations

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
