"""`Schedule`: evenly spaced in media time; after a stall the newest frame, never a burst."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.media.frame import Frame
from streamcap.media.timing.schedule import Schedule
from tests.media.fakes import made_frame


def chosen(schedule: Schedule, times: list[float], *, delay: float = 0.0) -> list[float]:
    return [time for time in times if schedule.due(made_frame(time, arrived=time + delay))]


def test_one_frame_per_second_of_thirty() -> None:
    picked = chosen(Schedule(1.0), [number / 30 for number in range(300)])
    assert picked == pytest.approx(list(range(10)), abs=0.04)


def test_grid_does_not_drift() -> None:
    picked = chosen(Schedule(0.25), [number / 30 for number in range(3000)])
    assert len(picked) == pytest.approx(400, abs=1)


def test_schedule_moves_earlier_once() -> None:
    schedule = Schedule(1.0)
    keyframes = [number / 2 for number in range(20)]
    before = chosen(schedule, keyframes[:5])
    schedule.come_earlier(0.5)
    assert [*before, *chosen(schedule, keyframes[5:])] == [0.0, 1.0, 2.0, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    assert schedule.missed == 0


def test_slow_source_takes_every_frame() -> None:
    times = [0.0, 3.0, 6.0, 9.0]
    assert chosen(Schedule(1.0), times) == times


def test_new_epoch_is_due_immediately() -> None:
    schedule = Schedule(10.0)
    assert schedule.due(made_frame(500.0))
    assert not schedule.due(made_frame(501.0))
    assert schedule.due(made_frame(0.0, epoch=1, arrived=502.0))


def test_backlog_takes_one_current_frame() -> None:
    schedule = Schedule(1.0)
    frames = [number / 30 for number in range(600)]
    picked = []
    for time in frames:
        # The reader stalls from 5 to 15 s; then the backlog arrives within 50 ms.
        arrived = 15 + (time - 5) * 0.005 if 5 <= time < 15 else time
        if schedule.due(made_frame(time, arrived=arrived)):
            picked.append(time)
    assert not [time for time in picked if 5.2 <= time < 14.4]
    assert len([time for time in picked if 14.4 <= time <= 15.4]) == 1
    assert schedule.missed >= 9


def test_constantly_late_source_is_sampled() -> None:
    schedule = Schedule(1.0)
    chosen(schedule, [number / 10 for number in range(50)])
    picked = chosen(schedule, [5 + number / 10 for number in range(100)], delay=4.0)
    assert len(picked) >= 8


@given(st.floats(0.05, 5), st.lists(st.floats(0.001, 3), min_size=1, max_size=200), st.floats(0, 0.2))
def test_rate_is_never_exceeded(every: float, gaps: list[float], delay: float) -> None:
    schedule, time, picked = Schedule(every), 0.0, []
    for gap in gaps:
        time += gap
        if schedule.due(made_frame(time, arrived=time + delay)):
            picked.append(time)
    assert len(picked) <= 1 + (time - picked[0]) / every + 1e-6
    assert all(after - before >= every * 0.499 for before, after in pairwise(picked))


@pytest.mark.parametrize(("before", "after"), [(60.0, 1.0), (1.0, 5.0), (0.5, 0.25)])
def test_other_interval_counts_from_the_newest_sample(before: float, after: float) -> None:
    schedule = Schedule(before)
    newest = chosen(schedule, [number / 30 for number in range(100)])[-1]
    schedule.change(after)
    picked = chosen(schedule, [number / 30 for number in range(100, 1000)])
    assert picked[0] == pytest.approx(max(100 / 30, newest + after), abs=0.04)
    assert [later - earlier for earlier, later in pairwise(picked[1:])] == pytest.approx(
        [after] * (len(picked) - 2), abs=0.04
    )


def sparse(time: float, spacing: float) -> Frame:
    return replace(made_frame(time), spacing=spacing)


def test_nearest_of_sparse_frames_is_taken() -> None:
    schedule = Schedule(1.0)
    times = [number * 0.4 for number in range(20)]
    picked = [time for time in times if schedule.due(sparse(time, 0.4))]
    assert picked == pytest.approx([0.0, 0.8, 2.0, 2.8, 4.0, 4.8, 6.0, 6.8])


def test_frames_that_a_source_leaves_out_are_not_missed() -> None:
    schedule = Schedule(1.0)
    assert all(schedule.due(sparse(time, 2.0)) for time in (0.0, 2.0, 4.0, 6.0))
    assert schedule.missed == 0
    assert schedule.due(sparse(11.0, 2.0))
    assert schedule.missed == 2
