"""How far a source is behind, and who is the cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamcap.streams.source.source_lag import SourceLag
from tests.streams.fakes import frame

FRAME = frame(0.0)


def note(lag: SourceLag, time: float, arrived: float, epoch: int = 0) -> float:
    lag.note(replace(FRAME, time=time, arrived=arrived, epoch=epoch))
    return round(lag.seconds, 2)


def test_lag_is_delay_above_the_lowest() -> None:
    lag = SourceLag()
    assert note(lag, 0.0, 50.0) == 0
    assert note(lag, 1.0, 50.9) == 0  # the lowest delay
    assert note(lag, 2.0, 55.9) == pytest.approx(4.0, abs=0.02)
    assert note(lag, 6.0, 56.0) == pytest.approx(0.1, abs=0.02)


def test_new_epoch_begins_anew() -> None:
    lag = SourceLag()
    note(lag, 0.0, 50.0)
    assert note(lag, 1.0, 60.0) > 8
    assert note(lag, 7000.0, 61.0, epoch=1) == 0


def test_slow_camera_clock_is_no_lag() -> None:
    lag = SourceLag()
    for second in range(3600):
        note(lag, second * 0.999, 50.0 + second)
    assert lag.seconds < 0.1


@pytest.mark.parametrize(("share", "ours"), [(0.0, True), (0.2, True), (0.5, False), (1.0, False)])
def test_thread_that_hardly_waits_is_ours(share: float, ours: bool) -> None:
    lag = SourceLag()
    for step in range(20):
        lag.note_waits(step / 4, share * step / 4)
    assert lag.is_ours() is ours


def test_nothing_is_ours_before_enough_is_known() -> None:
    lag = SourceLag()
    assert not lag.is_ours()
    lag.note_waits(0.0, 0.0)
    lag.note_waits(0.5, 0.0)
    assert not lag.is_ours()


def test_old_waits_do_not_count() -> None:
    lag = SourceLag()
    for step in range(40):
        lag.note_waits(step / 4, min(step / 4, 5.0))  # it waits for 5 s, then never again
    assert lag.is_ours()
