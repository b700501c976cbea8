"""Whatever timestamps a camera gives, time goes forward; what is sound is not touched."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.media.clock import MediaClock, Stamp

BASE = Fraction(1, 90_000)
STEP = 3000


def stamps(said: list[int | None], *, clock: MediaClock | None = None, pace: float = 1 / 30) -> list[Stamp]:
    clock = clock or MediaClock()
    return [clock.stamp(pts, BASE, 100.0 + number * pace) for number, pts in enumerate(said)]


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40), st.sampled_from([0, 1, 3000, 6000])), min_size=1),
    st.lists(st.floats(0, 5), min_size=1),
    st.sampled_from([None, 10.0]),
    st.sampled_from([None, 0.04]),
)
def test_time_rises_within_epoch_and_epochs_follow(
    said: list[int | None], gaps: list[float], jump: float | None, interval: float | None
) -> None:
    clock, now, made = MediaClock(jump_ahead=jump, interval=interval), 0.0, []
    for number, pts in enumerate(said):
        now += gaps[number % len(gaps)]
        made.append(clock.stamp(pts, BASE, now))
    for one, following in pairwise(made):
        assert following.epoch in (one.epoch, one.epoch + 1)
        if following.epoch == one.epoch:
            assert following.pts > one.pts
            assert following.time > one.time
    assert all(stamp.time == float(stamp.pts * stamp.time_base) for stamp in made)
    assert clock.repaired == sum(stamp.repaired for stamp in made)
    assert clock.epochs == made[-1].epoch


@given(st.integers(-(2**33), 2**33), st.lists(st.integers(1, 90_000), min_size=1, max_size=50))
def test_valid_timestamps_pass_unchanged(first: int, steps: list[int]) -> None:
    said: list[int | None] = [first]
    for step in steps:
        said.append((said[-1] or 0) + step if said[-1] is not None else step)
    made = stamps(said)
    assert [stamp.pts for stamp in made] == said
    assert not any(stamp.repaired or stamp.epoch for stamp in made)


def test_repeated_timestamp_is_interpolated() -> None:
    made = stamps([0, STEP, STEP, 2 * STEP, 3 * STEP])
    assert [stamp.pts for stamp in made] == [0, STEP, STEP + STEP // 2, 2 * STEP, 3 * STEP]
    assert [stamp.repaired for stamp in made] == [False, False, True, False, False]


def test_missing_first_timestamps_use_arrival() -> None:
    made = stamps([None, None, None, 7_000_000, 7_000_000 + STEP])
    assert {stamp.epoch for stamp in made} == {0}
    assert [stamp.time for stamp in made] == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30, 4 / 30], abs=1e-3)


def test_missing_timestamp_is_interpolated() -> None:
    made = stamps([0, STEP, None, 3 * STEP])
    assert made[2].time == pytest.approx(2 / 30, abs=1e-3)
    assert made[3].pts == 3 * STEP


def test_restarted_clock_opens_an_epoch() -> None:
    made = stamps([900_000, 903_000, 0, 3000])
    assert [(stamp.epoch, stamp.pts) for stamp in made] == [(0, 900_000), (0, 903_000), (1, 0), (1, 3000)]


def test_small_backward_step_is_jitter() -> None:
    made = stamps([0, 9000, 6000, 12_000])
    assert {stamp.epoch for stamp in made} == {0}
    assert made[2].repaired
    assert made[3].pts == 12_000


def test_forward_jump_opens_an_epoch_unless_time_passed() -> None:
    assert [s.epoch for s in stamps([0, STEP, 90_000 * 60])] == [0, 0, 1]
    assert [s.epoch for s in stamps([0, 90_000 * 60], pace=60.0)] == [0, 0]
    assert [s.epoch for s in stamps([0, 90_000 * 60], clock=MediaClock(jump_ahead=None))] == [0, 0]


def test_frozen_clock_is_replaced_by_arrival() -> None:
    made = stamps([5] * 31)
    assert made[-1].time - made[0].time == pytest.approx(1.0, abs=0.15)
    assert {stamp.epoch for stamp in made} == {0}


def test_file_without_timestamps_uses_frame_rate() -> None:
    made = stamps([None] * 26, clock=MediaClock(interval=Fraction(1, 25)), pace=0.0001)
    assert made[-1].time == pytest.approx(1.0)


def test_time_base_change_keeps_time() -> None:
    clock = MediaClock()
    clock.stamp(90_000, BASE, 0.0)
    later = clock.stamp(1500, Fraction(1, 1000), 0.5)
    assert (later.time, later.time_base, later.repaired) == (1.5, BASE, False)
