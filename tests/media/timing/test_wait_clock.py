from __future__ import annotations

from streamcap.media.timing.wait_clock import WaitClock


def test_waits_add_up() -> None:
    clock = WaitClock()
    assert (clock.total(5.0), clock.waiting_for(5.0)) == (0.0, 0.0)
    clock.begin(5.0)
    assert (clock.total(7.0), clock.waiting_for(7.0)) == (2.0, 2.0)
    clock.end(8.0)
    assert (clock.total(20.0), clock.waiting_for(20.0)) == (3.0, 0.0)
    clock.begin(20.0)
    clock.end(21.0)
    clock.end(30.0)
    assert clock.total(40.0) == 4.0
