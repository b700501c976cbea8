"""`DecodePolicy`: decides packet by packet what a decoder gets. Pure."""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

from streamcap.media.demand import FrameChoice, FrameDemand

MAX_GAP_SECONDS = 60.0
"""A longer time between keyframes is a jump of the camera's clock."""
_GAPS = 4
_MIN_GAPS = 2
# Keyframes that come a little more rarely than captions are wanted, such as every 1.001 s, still suffice.
_TOLERANCE = 1.1
# Where keyframes are rare, one may be captioned by this share of `every` too early.
_EARLY = 0.1


class Action(Enum):
    DECODE = "decode"
    """After the packets that were held, which it may refer to."""
    PREPARE = "prepare"
    """Decode it because the wanted frame refers to it; its own frame is not wanted."""
    HOLD = "hold"
    """Keep it until the next keyframe: it may be decoded later."""
    DROP = "drop"


class DecodePolicy:
    """Decodes as little as `demand` allows. All times are those of packets, in seconds.

    With `auto`, the times between the last keyframes are observed. Where they are no longer than `demand.every`, the
    keyframe nearest to each wanted time is decoded alone, or with the frames up to `demand.after` seconds after it, of
    which the last one is wanted. Where they are longer, each group of pictures is decoded from
    its keyframe to the last wanted frame in it, as it arrives. Other packets are held: when a viewer comes or a
    keyframe does not, decoding continues at once with complete frames.
    """

    def __init__(self, demand: FrameDemand) -> None:
        self.spacing = 0.0
        """Expected seconds between frames that are decoded, if some are left out; else 0."""
        self.alone = False
        """Whether the packet that was last to be decoded is a keyframe, and those after it are not decoded."""
        self.after_gap = False
        """Whether packets before the last keyframe were not decoded."""
        self.catch_up = False
        """Whether frames wait to be decoded: nothing but keyframes is decoded, and the rest forgotten."""
        self._demand = demand
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._key_time: float | None = None
        self._earlier_key_time: float | None = None
        self._newest: float | None = None
        self._wait = 0.0
        self._complete = True
        """Whether the decoder got everything since the last keyframe."""
        self._dropped = False
        self._trusted = True
        self._time: float | None = None
        self._frame = 0.0
        """Seconds between frames."""
        self._target: float | None = None
        """When the wanted frame is due that follows the keyframe decoded last; None: there is none."""
        self._decoded_few = False
        """Whether the packet that was last to be decoded was wanted alone or as the last one after its keyframe."""
        self._gives_at_once = True

    def frame_choice(self) -> FrameChoice:
        """The frames that could have been chosen instead of the last one."""
        if not self._decoded_few:
            return FrameChoice()
        may_follow = self._gives_at_once and self._demand.decode == "auto"
        return FrameChoice(self.spacing, self._frame if may_follow else 0.0)

    def idle(self) -> float:
        """Seconds of media time from the newest packet during which no wanted one is expected; 0: unknown."""
        demand, time, gap = self._demand, self._time, max(self._gaps, default=0.0)
        watched = demand.decode != "auto" or demand.viewers or self.catch_up or not demand.every > 0
        if watched or not self._trusted or self._target is not None or len(self._gaps) < _MIN_GAPS:
            return 0.0
        if self._newest is None or self._key_time is None or time is None or gap > demand.every * _TOLERANCE:
            return 0.0
        after = demand.after if self._gives_at_once else 0.0
        first = self._newest + min(self._wait, demand.every) - after - gap / 2
        # The next keyframes are expected as regularly as the last ones came.
        intervals = max(1, math.ceil((first - self._key_time) / gap))
        return max(0.0, self._key_time + intervals * min(self._gaps) - time)

    def choose(self, keyframe: bool, time: float | None) -> Action:
        """What to do with the next packet. time: its presentation timestamp; None: unknown."""
        if keyframe:
            self.after_gap, self._dropped = not self._complete, False
            self._note_keyframe(time)
        elif self._dropped or (self.after_gap and self._is_leading(time)):
            return Action.DROP
        if time is not None:
            # Some cameras repeat a timestamp now and then.
            self._frame = self._frame if self._time is None or time <= self._time else time - self._time
            self._time = time
        action = self._choose(keyframe, time)
        self._complete = action in (Action.DECODE, Action.PREPARE)
        self._dropped = action is Action.DROP
        return action

    def took(self, time: float | None) -> None:
        """A frame with this timestamp was yielded, and `demand.wait` set."""
        self._newest, self._wait = time, self._demand.wait

    def distrust(self) -> None:
        """What is marked as keyframes cannot be decoded alone: decode everything from now on."""
        self._trusted = False

    def delays(self) -> None:
        """The decoder gives no frame at once, as it may have to reorder them: decode keyframes alone from now on."""
        self._gives_at_once = False

    def caught_up(self) -> None:
        """The held packets were decoded after all."""
        self._complete = True

    def _choose(self, keyframe: bool, time: float | None) -> Action:
        demand = self._demand
        target, self._target = self._target, None
        self.spacing, self.alone, self._decoded_few = 0.0, False, False
        if demand.decode == "keyframes" or self.catch_up:
            # Frames skipped by an overload count as missed; unwanted ones do not.
            self.spacing = max(self._gaps, default=0.0) if demand.decode == "keyframes" else 0.0
            self.alone = self._decoded_few = keyframe
            return Action.DECODE if keyframe else Action.DROP
        gap = None if time is None else self._gap(time)
        known = gap is not None and self._newest is not None and self._key_time is not None
        if demand.decode == "all" or demand.viewers or not demand.every > 0 or not self._trusted or not known:
            return Action.DECODE
        assert gap is not None and time is not None and self._newest is not None and self._key_time is not None  # noqa: S101 - known
        # The interval may have been shortened since the last frame.
        due = self._newest + min(self._wait, demand.every)
        if gap <= demand.every * _TOLERANCE:
            self.spacing = gap
            return self._choose_near(keyframe, time, due, target)
        early = _EARLY * demand.every
        self.spacing = 2 * early if keyframe else 0.0
        overdue = time > self._key_time + max(self._gaps) + early
        return Action.DECODE if overdue or due < self._key_time + gap - early else Action.HOLD

    def _choose_near(self, keyframe: bool, time: float, due: float, target: float | None) -> Action:
        """Where keyframes are frequent: the frame nearest to `due` among those that lie as far after a keyframe."""
        if target is not None and (keyframe or time >= target - self._frame / 2):
            self.alone, self._decoded_few = keyframe, True
            return Action.DECODE
        after = self._demand.after if self._gives_at_once else 0.0
        if target is None:
            if not keyframe or time + after < due - self.spacing / 2:
                return Action.HOLD
            if not after:
                self.alone = self._decoded_few = True
                return Action.DECODE
            target = time + after
        self._target = target
        return Action.PREPARE

    def _note_keyframe(self, time: float | None) -> None:
        if time is None:
            self._gaps.clear()
        elif self._key_time is not None and time != self._key_time:
            gap = time - self._key_time
            if 0 < gap <= MAX_GAP_SECONDS:
                self._gaps.append(gap)
            else:
                self._gaps.clear()
        self._earlier_key_time, self._key_time = self._key_time, time

    def _gap(self, time: float) -> float | None:
        """The longest of the last times between keyframes, the present one included; None: not known yet."""
        if len(self._gaps) < _MIN_GAPS or self._key_time is None:
            return None
        return max(*self._gaps, time - self._key_time)

    def _is_leading(self, time: float | None) -> bool:
        if time is None or self._key_time is None or self._earlier_key_time is None:
            return False
        return self._earlier_key_time < time < self._key_time
