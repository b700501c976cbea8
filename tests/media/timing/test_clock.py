"""Media time goes forward for any timestamps; valid timestamps do not change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.media.timing.clock import MAX_EPOCHS_A_MINUTE, MAX_LAG_SECONDS, MAX_LEAD_SECONDS, MediaClock, Stamp
from streamcap.media.timing.schedule import Schedule
from streamcap.media.timing.timeline import Timeline
from tests.examples import examples
from tests.media.fakes import made_frame

BASE = Fraction(1, 90_000)
STEP = 3000


def stamps(raw: list[int | None], *, clock: MediaClock | None = None, pace: float = 1 / 30) -> list[Stamp]:
    clock = clock or MediaClock()
    return [clock.stamp(pts, BASE, 100.0 + number * pace) for number, pts in enumerate(raw)]


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40), st.sampled_from([0, 1, 3000, 6000])), min_size=1),
    st.lists(st.floats(0, 5), min_size=1),
    st.sampled_from([None, 10.0]),
    st.sampled_from([None, 0.04]),
)
def test_time_rises_within_epoch_and_epochs_follow(
    raw: list[int | None], gaps: list[float], jump: float | None, interval: float | None
) -> None:
    clock, now, stamped = MediaClock(jump_ahead=jump, interval=interval), 0.0, []
    for number, pts in enumerate(raw):
        now += gaps[number % len(gaps)]
        stamped.append(clock.stamp(pts, BASE, now))
    for one, following in pairwise(stamped):
        assert following.epoch in (one.epoch, one.epoch + 1)
        if following.epoch == one.epoch:
            assert following.pts > one.pts
            assert following.time > one.time
    assert all(stamp.time == float(stamp.pts * stamp.time_base) for stamp in stamped)
    assert clock.repaired == sum(stamp.repaired for stamp in stamped)
    assert clock.epochs == stamped[-1].epoch


@given(st.integers(-(2**33), 2**33), st.lists(st.integers(1, 90_000), min_size=1, max_size=50))
def test_valid_timestamps_pass_unchanged(first: int, steps: list[int]) -> None:
    raw: list[int | None] = [first]
    for step in steps:
        raw.append((raw[-1] or 0) + step if raw[-1] is not None else step)
    clock = MediaClock()
    stamped = [clock.stamp(pts, BASE, 100.0 + ((pts or 0) - first) / 90_000) for pts in raw]
    assert [stamp.pts for stamp in stamped] == raw
    assert not any(stamp.repaired or stamp.epoch for stamp in stamped)


def test_repeated_timestamp_is_interpolated() -> None:
    stamped = stamps([0, STEP, STEP, 2 * STEP, 3 * STEP])
    assert [stamp.pts for stamp in stamped] == [0, STEP, STEP + STEP // 2, 2 * STEP, 3 * STEP]
    assert [stamp.repaired for stamp in stamped] == [False, False, True, False, False]


def test_missing_first_timestamps_use_arrival() -> None:
    stamped = stamps([None, None, None, 7_000_000, 7_000_000 + STEP])
    assert {stamp.epoch for stamp in stamped} == {0}
    assert [stamp.time for stamp in stamped] == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30, 4 / 30], abs=1e-3)


def test_missing_timestamp_is_interpolated() -> None:
    stamped = stamps([0, STEP, None, 3 * STEP])
    assert stamped[2].time == pytest.approx(2 / 30, abs=1e-3)
    assert stamped[3].pts == 3 * STEP


def test_restarted_clock_opens_an_epoch() -> None:
    stamped = stamps([900_000, 903_000, 0, 3000, 6000, 9000])
    assert [stamp.epoch for stamp in stamped] == [0, 0, 0, 0, 1, 1]
    assert [stamp.pts for stamp in stamped[4:]] == [6000, 9000]
    # Until the jump is certain, time continues by arrival.
    assert [stamp.time for stamp in stamped[:4]] == pytest.approx([10 + number / 30 for number in range(4)], abs=1e-3)


def test_small_backward_step_is_jitter() -> None:
    stamped = stamps([0, 9000, 6000, 12_000])
    assert {stamp.epoch for stamp in stamped} == {0}
    assert stamped[2].repaired
    assert stamped[3].pts == 12_000


def test_forward_jump_opens_an_epoch_unless_time_passed() -> None:
    late = 90_000 * 60
    assert [s.epoch for s in stamps([0, STEP, late, late + STEP, late + 2 * STEP])] == [0, 0, 0, 0, 1]
    assert [s.epoch for s in stamps([0, 90_000 * 60], pace=60.0)] == [0, 0]
    assert [s.epoch for s in stamps([0, 90_000 * 60], clock=MediaClock(jump_ahead=None))] == [0, 0]


def test_frozen_clock_is_replaced_by_arrival() -> None:
    stamped = stamps([5] * 31)
    assert stamped[-1].time - stamped[0].time == pytest.approx(1.0, abs=0.15)
    assert {stamp.epoch for stamp in stamped} == {0}


def test_file_without_timestamps_uses_frame_rate() -> None:
    stamped = stamps([None] * 26, clock=MediaClock(interval=Fraction(1, 25)), pace=0.0001)
    assert stamped[-1].time == pytest.approx(1.0)


def test_time_base_change_keeps_time() -> None:
    clock = MediaClock()
    clock.stamp(90_000, BASE, 0.0)
    later = clock.stamp(1500, Fraction(1, 1000), 0.5)
    assert (later.time, later.time_base, later.repaired) == (1.5, BASE, False)


def test_every_tenth_frame_that_leaps_opens_no_epoch() -> None:
    hour = 90_000 * 3600
    stamped = stamps([number * STEP + (hour if number % 10 == 9 else 0) for number in range(300)])
    assert {stamp.epoch for stamp in stamped} == {0}
    assert [stamp.time for stamp in stamped] == pytest.approx([number / 30 for number in range(300)], abs=0.01)


@pytest.mark.parametrize("rate", [0.3, 0.7, 1.2, 2.0, 4.0])
def test_stamps_at_another_rate_than_time_are_ignored(rate: float) -> None:
    clock = MediaClock()
    stamped = stamps([round(number * STEP * rate) for number in range(900)], clock=clock)
    assert clock.by_arrival
    assert stamped[-1].time - stamped[-301].time == pytest.approx(10.0, abs=0.01)
    assert abs(stamped[-1].time - 899 / 30) <= max(MAX_LEAD_SECONDS, 6 * abs(1 - rate)) + 0.1
    file = MediaClock(jump_ahead=None)
    assert stamps([round(number * STEP * rate) for number in range(900)], clock=file)[-1].pts == round(
        899 * STEP * rate
    )


def test_network_that_stalls_and_catches_up_moves_no_stamp() -> None:
    clock = MediaClock()
    for number in range(1200):
        sent = number / 30
        arrived = max(sent, 14.0) if 10 <= sent < 14 else max(sent, 31.0) if 27 <= sent < 31 else sent
        assert clock.stamp(number * STEP, BASE, arrived).pts == number * STEP
    assert not clock.by_arrival


def test_clock_that_begins_again_all_the_time_is_ignored() -> None:
    clock = MediaClock()
    stamped = stamps([(number % 60) * STEP for number in range(1800)], clock=clock)
    assert clock.by_arrival
    assert stamped[-1].epoch <= MAX_EPOCHS_A_MINUTE


def odd_source(rng: random.Random, seconds: float, rate: float) -> Iterator[tuple[int | None, float]]:
    """Timestamps with arrivals: a random mixture of jumps, steps, drift, repeats, jitter, gaps and missing ones."""
    kinds = {kind for kind in ("leap", "step", "drift", "repeat", "jitter", "gap", "none") if rng.random() < 0.5}
    often = 10 ** rng.uniform(-2.5, -0.5)
    drift = rng.choice([0.2, 0.5, 0.9, 0.99, 1.01, 1.2, 2.0, 4.0]) if "drift" in kinds else 1.0
    offset, sent, arrived, last = rng.uniform(0, 1e5), 0.0, 0.0, 0
    while sent < seconds:
        sent += 1 / rate
        if "gap" in kinds and rng.random() < often / 10:
            sent += rng.uniform(0, 4)
        if "step" in kinds and rng.random() < often / 3:
            offset += rng.choice([-1, 1]) * 10 ** rng.uniform(-2, 5)
        leap = rng.choice([-1, 1]) * 10 ** rng.uniform(0, 5) if "leap" in kinds and rng.random() < often else 0.0
        pts = round((offset + sent * drift + leap + (rng.gauss(0, 0.03) if "jitter" in kinds else 0)) * 90_000)
        if "repeat" in kinds and rng.random() < often:
            pts = last
        last = pts
        arrived = max(arrived, sent + (rng.expovariate(20) if "jitter" in kinds else 0.0))
        yield (None if "none" in kinds and rng.random() < often else pts), arrived


def test_clock_keeps_its_bounds_under_any_stamps() -> None:
    every, rate, seconds = 1.0, 8.0, 25.0
    frame = made_frame(0.0)
    for seed in range(examples(1000)):
        rng = random.Random(seed)
        clock, timeline, schedule = MediaClock(), Timeline(), Schedule(every)
        stamp, output, taken, first = None, 0.0, 0, None
        for pts, arrived in odd_source(rng, seconds, rate):
            before, stamp = stamp, clock.stamp(pts, BASE, arrived)
            first = arrived if first is None else first
            assert before is None or stamp.epoch > before.epoch or stamp.time > before.time, seed
            placed = timeline.place(1, stamp.epoch, stamp.time, arrived)
            assert placed >= output, seed
            output = placed
            lead = output - (arrived - first)
            assert -MAX_LAG_SECONDS - 1 <= lead <= MAX_LEAD_SECONDS + 1, seed
            taken += schedule.due(replace(frame, time=stamp.time, epoch=stamp.epoch, arrived=arrived))
        assert clock.epochs <= MAX_EPOCHS_A_MINUTE, seed
        # One caption a second, plus or minus what time gained or lost, and one more for each epoch.
        assert taken <= seconds / every + MAX_LEAD_SECONDS + 2 + clock.epochs, seed
