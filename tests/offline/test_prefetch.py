"""Reading ahead: in order, bounded, and never left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from streamcap.offline.prefetch import Prefetcher


def running(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


def test_prefetch_keeps_order_and_ends() -> None:
    with Prefetcher(iter(range(100)), 3, "count") as ahead:
        assert list(ahead) == list(range(100))
    assert not running("count")


def test_prefetch_depth_is_bounded() -> None:
    made = 0
    taken = 0

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(50):
            # The reader holds one at most, `depth` wait, one is in the hand.
            assert made - taken <= 2 + 2
            made += 1
            yield number

    with Prefetcher(items(), 2, "bounded") as ahead:
        for _ in ahead:
            taken += 1
    assert (made, taken) == (50, 50)


def test_prefetch_error_follows_earlier_items() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk went away")

    seen = []
    with pytest.raises(OSError, match="disk"), Prefetcher(items(), 4, "fails") as ahead:
        for item in ahead:
            seen.append(item)  # noqa: PERF402 - what came before the failure counts
    assert seen == [1]
    assert not running("fails")


def test_prefetch_stops_when_reader_leaves() -> None:
    def items() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with Prefetcher(items(), 2, "endless") as ahead:
        assert next(iter(ahead)) == 0
    assert not running("endless")
