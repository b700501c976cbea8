"""What could be read at once is given out in real time, without bursts."""

from __future__ import annotations

import pytest

from streamcap.media.sources.pace import Pacer


def test_frames_wait_until_they_are_due() -> None:
    now = [50.0]
    pacer = Pacer(lambda: now[0])
    assert pacer.wait(0, 7.0) == 0
    assert pacer.wait(0, 7.5) == pytest.approx(0.5)
    now[0] = 50.4
    assert pacer.wait(0, 7.5) == pytest.approx(0.1)


def test_a_little_late_catches_up_and_much_too_late_goes_on_from_there() -> None:
    now = [0.0]
    pacer = Pacer(lambda: now[0])
    pacer.wait(0, 0.0)
    now[0] = 1.2
    assert pacer.wait(0, 1.0) == 0
    assert pacer.wait(0, 2.0) == pytest.approx(0.8)
    now[0] = 10.0
    assert pacer.wait(0, 3.0) == 0
    assert pacer.wait(0, 4.0) == pytest.approx(1.0)


def test_another_epoch_begins_at_once() -> None:
    pacer = Pacer(lambda: 5.0)
    pacer.wait(0, 100.0)
    assert pacer.wait(1, 0.0) == 0
    assert pacer.wait(1, 1.0) == pytest.approx(1.0)
