"""Prefetching keeps the order, is bounded, and leaves no thread behind."""

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
    produced = 0
    consumed = 0

    def items() -> Iterator[int]:
        nonlocal produced
        for number in range(50):
            # At most one item is with the reader, `depth` wait, and one is in the thread.
            assert produced - consumed <= 2 + 2
            produced += 1
            yield number

    with Prefetcher(items(), 2, "bounded") as ahead:
        for _ in ahead:
            consumed += 1
    assert (produced, consumed) == (50, 50)


def test_prefetch_error_follows_earlier_items() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk removed")

    seen = []
    with pytest.raises(OSError, match="disk"), Prefetcher(items(), 4, "fails") as ahead:
        for item in ahead:
            seen.append(item)  # noqa: PERF402 - items before the error must arrive
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
