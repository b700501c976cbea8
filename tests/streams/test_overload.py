"""When the service counts as overloaded, and how much less often it captions then."""

from __future__ import annotations

from itertools import pairwise

from streamcap.streams.overload import (
    BEGIN_SECONDS,
    END_SECONDS,
    HOLD_SECONDS,
    LOOP_DELAY_SECONDS,
    LOOP_MEMORY_SECONDS,
    MAX_STRETCH,
    STEP_FACTOR,
    OverloadDetector,
    StreamLoad,
)

FRESH = StreamLoad(1.0, 0.2)
LATE = StreamLoad(1.0, 12.0)


class Watched:
    """A detector whose seconds pass as the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.detector = OverloadDetector(lambda: self.now)
        self.lines: list[str] = []

    def pass_(self, seconds: float, *loads: StreamLoad) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            if line := self.detector.update(loads):
                self.lines.append(line)


def test_late_is_three_seconds_and_three_intervals() -> None:
    assert [StreamLoad(0.1, lag).late for lag in (3.0, 3.1)] == [False, True]
    assert [StreamLoad(10.0, lag).late for lag in (30.0, 30.1)] == [False, True]


def test_overload_is_logged_once_at_begin_and_end() -> None:
    watched = Watched()
    watched.pass_(60, FRESH, LATE, LATE)
    (begin,) = watched.lines
    assert begin.startswith("overloaded: captions are up to 12 s late on 2 of 3 streams: this machine is too slow")
    assert "--every" in begin and "fewer cameras" in begin
    assert watched.detector.overloaded and watched.detector.late_share == 2 / 3
    watched.pass_(300, FRESH, FRESH, FRESH)
    assert len(watched.lines) == 2 and watched.lines[1].startswith(
        "no longer overloaded: captions are in time on all 3"
    )
    assert (watched.detector.overloaded, watched.detector.describe()) == (False, "")


def test_short_delay_is_no_overload() -> None:
    watched = Watched()
    for _ in range(20):
        watched.pass_(BEGIN_SECONDS - 1, LATE)
        watched.pass_(1, FRESH)
    assert watched.lines == [] and watched.detector.stretch == 1


def test_interval_grows_while_late_up_to_maximum() -> None:
    watched = Watched()
    watched.pass_(BEGIN_SECONDS + 2, LATE)
    assert watched.detector.stretch == STEP_FACTOR
    watched.pass_(300, LATE)
    assert watched.detector.stretch == MAX_STRETCH


def test_interval_returns_to_what_was_asked_for() -> None:
    watched = Watched()
    watched.pass_(300, LATE)
    watched.pass_(END_SECONDS + 2, FRESH)
    assert "captions still come 8 times less often" in watched.lines[-1]
    watched.pass_(20 * HOLD_SECONDS, FRESH)
    assert watched.detector.stretch == 1


def test_relapse_doubles_the_wait_before_the_next_try() -> None:
    watched = Watched()
    periods = []
    for _ in range(4):
        while not watched.detector.overloaded:
            watched.pass_(1, LATE)
        before = watched.detector.stretch
        began = watched.now
        while watched.detector.stretch >= before:
            watched.pass_(1, FRESH)
        periods.append(watched.now - began)
    assert [round(later / earlier) for earlier, later in pairwise(periods)] == [2, 2, 2]


def test_no_streams_are_no_overload() -> None:
    watched = Watched()
    watched.pass_(30)
    assert watched.lines == [] and watched.detector.late_share == 0


def test_late_event_loop_is_a_slow_machine_for_a_while() -> None:
    watched = Watched()
    watched.detector.note_loop_delay(LOOP_DELAY_SECONDS / 2)
    assert not watched.detector.is_machine_slow
    watched.detector.note_loop_delay(LOOP_DELAY_SECONDS)
    assert watched.detector.is_machine_slow
    watched.pass_(LOOP_MEMORY_SECONDS)
    assert not watched.detector.is_machine_slow


def test_overloaded_service_is_a_slow_machine() -> None:
    watched = Watched()
    watched.pass_(BEGIN_SECONDS + 1, LATE)
    assert watched.detector.is_machine_slow
