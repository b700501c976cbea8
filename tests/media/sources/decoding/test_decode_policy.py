"""`DecodePolicy`: what is decoded of cameras with frequent, rare, missing and irregular keyframes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from streamcap.media.demand import FrameChoice, FrameDemand
from streamcap.media.sources.decoding.decode_policy import Action, DecodePolicy
from streamcap.media.timing.schedule import Schedule
from tests.media.fakes import made_frame

RATE = 30


@dataclass
class Camera:
    """Plays packets of 30 frames a second to a policy and a schedule, as `LibavSource` and `SourceThread` do."""

    demand: FrameDemand
    time: float = 0.0
    decoded: list[float] = field(default_factory=list)
    """Also those that were held before."""
    captioned: list[float] = field(default_factory=list)
    idle: list[tuple[float, float]] = field(default_factory=list)
    """After each packet: its time, and for how long no wanted one is expected."""

    def __post_init__(self) -> None:
        self.policy = DecodePolicy(self.demand)
        self.schedule = Schedule(self.demand.every)
        self.choice = FrameChoice()
        self._held: list[float] = []
        self._number = 0

    def play(self, seconds: float, gop: float) -> None:
        """`gop`: seconds between keyframes, the first one now."""
        for number in range(round(seconds * RATE)):
            time, keyframe = self._number / RATE, number % round(gop * RATE) == 0
            self._number += 1
            self._held = [] if keyframe else self._held
            action = self.policy.choose(keyframe, time)
            if action is Action.HOLD:
                self._held.append(time)
            elif action is Action.PREPARE:
                self.decoded.append(time)
            elif action is Action.DECODE:
                self.decoded += [*self._held, time]
                self._held = []
                frame = made_frame(time)
                object.__setattr__(frame, "spacing", self.policy.spacing)
                if self.schedule.due(frame):
                    self.captioned.append(time)
                    self.choice = self.policy.frame_choice()
                self.demand.wait = self.schedule.wait(frame)
                self.policy.took(time)
            self.idle.append((time, self.policy.idle()))

    def share(self, since: float) -> float:
        """Of the frames since then, how many were decoded."""
        return within(self.decoded, since) / (self._number - since * RATE)


def within(times: Iterable[float], since: float) -> int:
    return sum(time >= since for time in times)


@pytest.mark.parametrize("gop", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("every", [1.0, 2.0])
def test_frequent_keyframes_are_decoded_alone(gop: float, every: float) -> None:
    camera = Camera(FrameDemand(every=every))
    camera.play(24.0, gop)
    assert within(camera.decoded, 8.0) == within(camera.captioned, 8.0) == 16 / every
    # Each is the keyframe nearest to its time.
    for number, time in enumerate(camera.captioned):
        assert abs(time - number * every) <= gop / 2 + 1e-6


@pytest.mark.parametrize(
    ("gop", "every", "most"), [(2.0, 1.0, 0.55), (1.5, 1.0, 0.55), (4.0, 1.0, 0.8), (4.0, 3.0, 0.7)]
)
def test_rare_keyframes_end_a_group_at_its_last_caption(gop: float, every: float, most: float) -> None:
    camera = Camera(FrameDemand(every=every))
    camera.play(36.0, gop)
    assert camera.share(12.0) <= most
    on_time = [number * every for number in range(len(camera.captioned))]
    assert camera.captioned == pytest.approx(on_time, abs=0.1 * every)
    assert len(camera.captioned) >= 35 / every


def test_missing_keyframe_is_noticed_within_a_tenth() -> None:
    camera = Camera(FrameDemand(every=1.0))
    camera.play(10.0, 0.5)
    camera.play(10.0, 10.0)
    late = [time for time in camera.captioned if time >= 10.0]
    assert len(late) >= 9
    assert max(b - a for a, b in zip(camera.captioned, camera.captioned[1:], strict=False)) < 1.7
    # From the moment it was noticed everything is decoded: no picture of the group is left out.
    assert camera.share(12.0) == 1.0


def test_keyframes_that_come_back_are_used_again() -> None:
    camera = Camera(FrameDemand(every=1.0))
    camera.play(12.0, 4.0)
    camera.play(12.0, 1.0)
    assert within(camera.decoded, 18.0) == 6


def test_viewer_gets_every_frame_at_once() -> None:
    camera = Camera(FrameDemand(every=1.0))
    camera.play(6.5, 1.0)
    before = len(camera.decoded)
    camera.demand.viewers = 1
    camera.play(0.1, 10.0)
    assert len(camera.decoded) - before >= 3
    assert camera.decoded[-1] == pytest.approx(6.5 + 2 / RATE)


def test_viewer_within_gop_gets_all_reference_frames() -> None:
    camera = Camera(FrameDemand(every=2.0))
    for number in range(12 * RATE):
        if number == 10 * RATE + 20:
            camera.demand.viewers = 1
        keyframe = number % RATE == 0
        action = camera.policy.choose(keyframe, number / RATE)
        if number >= 10 * RATE + 20:
            assert action is Action.DECODE
        if action is Action.DECODE:
            camera.demand.wait = 2.0
            camera.policy.took(number / RATE)


def test_shorter_interval_acts_before_the_old_one_is_over() -> None:
    camera = Camera(FrameDemand(every=600.0))
    camera.play(6.0, 1.0)
    camera.demand.every = 1.0
    camera.schedule.change(1.0)
    camera.play(6.0, 1.0)
    assert within(camera.decoded, 6.0) >= 5


@pytest.mark.parametrize("decode", ["all", "keyframes"])
def test_explicit_choice(decode: str) -> None:
    camera = Camera(FrameDemand(decode=decode, every=1.0))  # type: ignore[arg-type]
    camera.play(12.0, 2.0)
    assert len(camera.decoded) == (360 if decode == "all" else 6)
    assert camera.schedule.missed == 0


def test_packets_without_timestamps_are_decoded() -> None:
    policy = DecodePolicy(FrameDemand(every=1.0))
    assert {policy.choose(number % 10 == 0, None) for number in range(100)} == {Action.DECODE}


def test_clock_that_jumps_is_decoded_until_known_again() -> None:
    camera = Camera(FrameDemand(every=1.0))
    camera.play(6.0, 1.0)
    assert camera.policy.choose(True, 9_000.0) is Action.DECODE
    assert camera.policy.choose(False, 9_000.1) is Action.DECODE
    assert camera.policy.choose(False, 0.0) is Action.DECODE


def test_non_intra_keyframes_make_all_frames_decoded() -> None:
    camera = Camera(FrameDemand(every=1.0))
    camera.policy.distrust()
    camera.play(6.0, 1.0)
    assert len(camera.decoded) == 6 * RATE


@pytest.mark.parametrize("gop", [0.5, 1.0])
@pytest.mark.parametrize("frames", [1, 3])
def test_frame_after_a_keyframe_costs_those_up_to_it(gop: float, frames: int) -> None:
    camera = Camera(FrameDemand(every=1.0, after=frames / RATE))
    camera.play(24.0, gop)
    late = [time for time in camera.captioned if time >= 8.0]
    assert len(late) == 16
    assert {round(time % gop * RATE) for time in late} == {frames}
    assert within(camera.decoded, 8.0) == 16 * (1 + frames)
    assert camera.schedule.missed == 0
    assert camera.choice == FrameChoice(pytest.approx(gop), pytest.approx(1 / RATE))


def test_viewer_after_such_a_frame_gets_all_references() -> None:
    camera = Camera(FrameDemand(every=1.0, after=2 / RATE))
    camera.play(6.0 + 5 / RATE, 1.0)
    camera.demand.viewers = 1
    camera.play(1 / RATE, 10.0)
    # The last frame stands for a keyframe here: what follows is decoded one by one.
    assert camera.decoded[-4:] == pytest.approx([6.0, 6.0 + 1 / RATE, 6.0 + 2 / RATE, 6.0 + 5 / RATE])


def test_keyframe_that_comes_too_early_is_captioned() -> None:
    camera = Camera(FrameDemand(every=1.0, after=10 / RATE))
    camera.play(8.0, 1.0)
    camera.play(8.0, 0.2)
    late = [time for time in camera.captioned if time >= 10.0]
    assert len(late) >= 5
    assert camera.schedule.missed == 0


@pytest.mark.parametrize("decode", ["auto", "keyframes"])
def test_decoder_that_delays_gets_keyframes_alone(decode: str) -> None:
    camera = Camera(FrameDemand(decode=decode, every=1.0, after=2 / RATE))  # type: ignore[arg-type]
    camera.policy.delays()
    camera.play(12.0, 1.0)
    assert within(camera.decoded, 4.0) == within(camera.captioned, 4.0) == 8
    assert camera.choice == FrameChoice(1.0)


@pytest.mark.parametrize("gop", [0.5, 1.0])
@pytest.mark.parametrize("frames", [0, 2])
def test_idle_time_ends_where_decoding_begins(gop: float, frames: int) -> None:
    camera = Camera(FrameDemand(every=1.0, after=frames / RATE))
    camera.play(24.0, gop)
    began = [time for time in camera.decoded if round(time * RATE) % round(gop * RATE) == 0]
    late = [(time, idle) for time, idle in camera.idle if 8.0 <= time < 22.0]
    for time, idle in late:
        if idle:
            assert time + idle == pytest.approx(min(key for key in began if key > time + 1e-6))
    # Only the packets up to the wanted one are followed by no idle time, and the last before the keyframe.
    assert sum(idle == 0 for _, idle in late) <= 14 * (1 + frames)


@pytest.mark.parametrize(("every", "gop"), [(1.0, 4.0), (0.2, 1.0)])
def test_rare_keyframes_leave_no_idle_time(every: float, gop: float) -> None:
    camera = Camera(FrameDemand(every=every))
    camera.play(16.0, gop)
    assert not any(idle for _, idle in camera.idle)


def test_no_idle_time_while_somebody_watches() -> None:
    camera = Camera(FrameDemand(every=1.0))
    camera.play(6.5, 1.0)
    assert camera.policy.idle() > 0
    camera.demand.viewers = 1
    assert camera.policy.idle() == 0
