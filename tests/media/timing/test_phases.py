"""Streams whose frames come at the same time are sampled at different times."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamcap.media.demand import FrameChoice
from streamcap.media.timing.phases import SamplingPhases


def played(
    starts: dict[str, float],
    *,
    every: float = 1.0,
    step: float,
    frame: float = 0.0,
    seconds: int = 40,
    busy: float = 0.0,
) -> dict[str, list[float]]:
    """The times of the samples of streams that begin at `starts` and may take a keyframe every `step` seconds, or one
    of the frames, `frame` seconds apart, that follow it. busy: of the model, for one caption."""
    phases = SamplingPhases()
    due, taken = dict(starts), {name: list[float]() for name in starts}
    while min(due.values()) < seconds:
        name = min(due, key=lambda name: due[name])
        now = due[name]
        taken[name].append(now)
        if busy:
            phases.note(busy)
        earlier, _ = phases.place(name, 1000.25 + now, every, FrameChoice(step, frame))
        due[name] = now + every - earlier
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
            phases.place(name, float(second), 1.0, FrameChoice(0.5))
    phases.forget("a")
    assert [phases.place("b", float(second), 1.0, FrameChoice(0.5)) for second in range(2, 12)] == [(0.0, 0.0)] * 10


def test_intervals_are_judged_apart() -> None:
    phases = SamplingPhases()
    shifts = []
    for second in range(20):
        phases.place("slow", float(second), 2.0, FrameChoice())
        shifts.append(phases.place("fast", float(second), 1.0, FrameChoice(0.5)))
    assert shifts == [(0.0, 0.0)] * 20


FRAME = 1 / 30


def distances(taken: dict[str, list[float]]) -> list[float]:
    """Between the last samples of the streams, within their interval of a second."""
    phases = sorted(times[-1] % 1.0 for times in taken.values())
    return [(after - before) % 1.0 for before, after in pairwise([*phases, phases[0]])]


@pytest.mark.parametrize(("step", "streams"), [(1.0, 2), (0.5, 4), (1.0, 3)])
def test_streams_in_step_take_frames_after_keyframes(step: float, streams: int) -> None:
    taken = played({f"cam{number}": 0.0 for number in range(streams)}, step=step, frame=FRAME, busy=0.026)
    # No farther apart than needed, as each frame between costs time to decode.
    assert min(distances(taken)) == pytest.approx(FRAME)
    offsets = {round(times[-1] % step / FRAME) for times in taken.values()}
    assert offsets == set(range(-(-streams // round(1 / step))))


def test_slow_model_keeps_streams_farther_apart() -> None:
    taken = played({"a": 0.0, "b": 0.0}, step=1.0, frame=FRAME, busy=0.08)
    assert min(distances(taken)) == pytest.approx(3 * FRAME)


def test_frames_after_keyframes_only_where_they_are_free() -> None:
    """More streams than places: the rest stays at the keyframes, which cost least."""
    taken = played({f"cam{number}": 0.0 for number in range(12)}, step=1.0, frame=FRAME, busy=0.05, seconds=60)
    assert together(taken) == [10, 1, 1]


def test_place_beside_a_keyframe_is_given_up() -> None:
    """The stream at the keyframe leaves: its place is the cheaper one."""
    phases = SamplingPhases()
    phases.note(0.026)
    choice, due = FrameChoice(1.0, FRAME), {"a": 0.0, "b": 0.0}
    after = dict.fromkeys(due, 0.0)
    for second in range(40):
        if second == 20:
            assert sorted(after.values()) == pytest.approx([0.0, FRAME])
            [at_keyframe] = (name for name in due if not after[name])
            phases.forget(at_keyframe)
            del due[at_keyframe], after[at_keyframe]
        for name, time in due.items():
            earlier, after[name] = phases.place(name, time, 1.0, choice)
            due[name] = time + 1.0 - earlier
    assert list(after.values()) == [0.0]
    assert [time % 1.0 for time in due.values()] == pytest.approx([0.0])
