"""`Pacer`: finite sources in real time, without bursts."""

from __future__ import annotations

import pytest

from streamcap.media.sources.pacer import Pacer


def test_frames_wait_until_due() -> None:
    now = [50.0]
    pacer = Pacer(lambda: now[0])
    assert pacer.wait(0, 7.0) == 0
    assert pacer.wait(0, 7.5) == pytest.approx(0.5)
    now[0] = 50.4
    assert pacer.wait(0, 7.5) == pytest.approx(0.1)


def test_pacer_catches_up_or_resets() -> None:
    now = [0.0]
    pacer = Pacer(lambda: now[0])
    pacer.wait(0, 0.0)
    now[0] = 1.2
    assert pacer.wait(0, 1.0) == 0
    assert pacer.wait(0, 2.0) == pytest.approx(0.8)
    now[0] = 10.0
    assert pacer.wait(0, 3.0) == 0
    assert pacer.wait(0, 4.0) == pytest.approx(1.0)


def test_new_epoch_starts_immediately() -> None:
    pacer = Pacer(lambda: 5.0)
    pacer.wait(0, 100.0)
    assert pacer.wait(1, 0.0) == 0
    assert pacer.wait(1, 1.0) == pytest.approx(1.0)
