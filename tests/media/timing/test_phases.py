"""Streams whose frames come at the same time are sampled at different times."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamcap.media.timing.phases import SamplingPhases


def played(starts: dict[str, float], *, every: float = 1.0, step: float, seconds: int = 40) -> dict[str, list[float]]:
    """The times of the samples of streams that begin at `starts` and take a frame every `step` seconds."""
    phases = SamplingPhases()
    due, taken = dict(starts), {name: list[float]() for name in starts}
    while min(due.values()) < seconds:
        name = min(due, key=lambda name: due[name])
        now = due[name]
        taken[name].append(now)
        due[name] = now + every - phases.earlier(name, 1000.25 + now, every, step)
    return taken


def together(taken: dict[str, list[float]], every: float = 1.0) -> list[int]:
    """How many streams are sampled at each phase in the end, most first."""
    phases = [round(times[-1] % every, 2) % every for times in taken.values()]
    return sorted((phases.count(one) for one in set(phases)), reverse=True)


@pytest.mark.parametrize(
    ("streams", "step", "expected"),
    [(4, 0.5, [2, 2]), (4, 0.25, [1, 1, 1, 1]), (3, 0.5, [2, 1]), (8, 0.5, [4, 4]), (4, 1.0, [4]), (4, 0.0, [4])],
)
def test_streams_spread_over_their_frames(streams: int, step: float, expected: list[int]) -> None:
    assert together(played({f"cam{number}": 0.0 for number in range(streams)}, step=step)) == expected


def test_no_interval_is_longer_than_wanted() -> None:
    taken = played({f"cam{number}": 0.01 * number for number in range(6)}, step=0.25)
    gaps = [after - before for times in taken.values() for before, after in pairwise(times)]
    assert max(gaps) <= 1.0 + 1e-9
    assert min(gaps) >= 0.25 - 1e-9
    # Each stream moves once or twice.
    assert sum(gap < 0.99 for gap in gaps) <= 2 * len(taken)


def test_streams_that_never_meet_stay() -> None:
    taken = played({"a": 0.0, "b": 0.3, "c": 0.6}, step=0.1)
    gaps = [after - before for times in taken.values() for before, after in pairwise(times)]
    assert gaps == pytest.approx([1.0] * len(gaps))


def test_forgotten_stream_counts_no_longer() -> None:
    phases = SamplingPhases()
    for second in range(2):
        for name in ("a", "b"):
            phases.earlier(name, float(second), 1.0, 0.5)
    phases.forget("a")
    assert [phases.earlier("b", float(second), 1.0, 0.5) for second in range(2, 12)] == [0.0] * 10


def test_intervals_are_judged_apart() -> None:
    phases = SamplingPhases()
    shifts = []
    for second in range(20):
        phases.earlier("slow", float(second), 2.0, 0.0)
        shifts.append(phases.earlier("fast", float(second), 1.0, 0.5))
    assert shifts == [0.0] * 20
