"""`FrameRing`: both bounds, one epoch at a time, even windows."""

from __future__ import annotations

import pytest

from streamcap.errors import InputError
from streamcap.media.ring import FrameRing
from tests.media.fakes import made_frame


def filled(times: list[float], *, seconds: float = 10.0, frames: int = 100, spacing: float = 0.0) -> FrameRing:
    ring = FrameRing(seconds=seconds, frames=frames, spacing=spacing)
    for time in times:
        ring.push(made_frame(time))
    return ring


def held(ring: FrameRing) -> list[float]:
    """The times of all stored frames."""
    return sorted({frame.time for frame in ring.window(1e6, 10_000)})


def test_capacity_in_frames() -> None:
    ring = filled([number / 10 for number in range(50)], frames=8)
    assert held(ring) == [number / 10 for number in range(42, 50)]
    newest = ring.newest()
    assert newest is not None
    assert newest.time == 4.9


def test_capacity_in_seconds() -> None:
    assert held(filled([float(number) for number in range(30)], seconds=5.0)) == [24.0, 25.0, 26.0, 27.0, 28.0, 29.0]


def test_thinned_ring_keeps_even_spacing_and_newest() -> None:
    times = [number / 30 for number in range(300)]
    ring = filled(times, spacing=0.25)
    assert len(held(ring)) <= 4 * 10 + 2
    assert ring.window(1, 1)[0].time == times[-1]
    seen = [frame.time for frame in ring.window(8.0, 17)]
    assert seen == pytest.approx([times[-1] - 8 + 0.5 * i for i in range(17)], abs=0.25)
    assert len(set(seen)) == 17


def test_empty_ring() -> None:
    ring = FrameRing(seconds=1, frames=1)
    assert ring.newest() is None
    assert ring.window(4, 8) == []


def test_clip_is_evenly_spaced_and_ends_with_newest() -> None:
    ring = filled([number / 30 for number in range(300)], frames=300)
    times = [frame.time for frame in ring.window(4.0, 5)]
    assert times == pytest.approx([299 / 30 - 4 + i for i in range(5)], abs=1 / 30)
    assert times[-1] == 299 / 30


def test_clip_longer_than_ring_spans_available_frames() -> None:
    assert [frame.time for frame in filled([0.0, 1.0, 2.0]).window(60, 3)] == [0.0, 1.0, 2.0]
    assert [frame.time for frame in filled([7.0]).window(60, 4)] == [7.0] * 4
    assert [frame.time for frame in filled([0.0, 1.0]).window(60, 4)] == [0.0, 0.0, 1.0, 1.0]
    assert [frame.time for frame in filled([0.0, 1.0]).window(60, 1)] == [1.0]


@pytest.mark.parametrize(("time", "epoch"), [(9.5, 1), (3.0, 0)])
def test_new_epoch_or_earlier_time_clears_ring(time: float, epoch: int) -> None:
    ring = filled([8.0, 9.0])
    ring.push(made_frame(time, epoch=epoch))
    assert [frame.time for frame in ring.window(10, 2)] == [time, time]


@pytest.mark.parametrize(("seconds", "frames"), [(0, 5), (5, 0), (float("nan"), 5)])
def test_invalid_bounds(seconds: float, frames: int) -> None:
    with pytest.raises(InputError, match="cannot store a frame"):
        FrameRing(seconds=seconds, frames=frames)
    with pytest.raises(InputError, match="at least 1"):
        FrameRing(seconds=1, frames=1).window(1, 0)
