from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.media.timing.timeline import Timeline


def test_first_epoch_starts_at_zero() -> None:
    timeline = Timeline()
    assert timeline.place(0, 0, 95_443.0, arrived=7.0) == 0.0
    assert timeline.place(0, 0, 95_444.5, arrived=8.5) == pytest.approx(1.5)


def test_reconnect_continues_at_service_clock() -> None:
    timeline = Timeline()
    timeline.place(0, 0, 10.0, arrived=100.0)
    timeline.place(0, 0, 14.0, arrived=104.0)
    assert timeline.place(1, 0, 0.0, arrived=110.0) == pytest.approx(10.0)
    assert timeline.epoch == 1


def test_burst_before_reconnect_keeps_time_monotonic() -> None:
    timeline = Timeline()
    timeline.place(0, 0, 0.0, arrived=0.0)
    timeline.place(0, 0, 30.0, arrived=1.0)  # read faster than real time
    assert timeline.place(0, 1, 0.0, arrived=2.0) == pytest.approx(30.0)


def test_service_restart_continues_time() -> None:
    timeline = Timeline(begin=42.0)
    assert timeline.place(0, 0, 5.0, arrived=1.0) == 42.0
    assert timeline.place(0, 0, 6.0, arrived=2.0) == 43.0


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(-1e5, 1e5), st.floats(0, 10)),
        max_size=60,
    )
)
def test_output_time_is_monotonic(steps: list[tuple[int, int, float, float]]) -> None:
    timeline, arrived, last = Timeline(), 0.0, 0.0
    for opening, epoch, time, pause in steps:
        arrived += pause
        placed = timeline.place(opening, epoch, time, arrived)
        assert placed >= last
        last = placed
