"""`DecodePolicy`: decides packet by packet what a decoder gets. Pure."""

from __future__ import annotations

from collections import deque
from enum import Enum

from streamcap.media.demand import FrameDemand

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
    HOLD = "hold"
    """Keep it until the next keyframe: it may be decoded later."""
    DROP = "drop"


class DecodePolicy:
    """Decodes as little as `demand` allows. All times are those of packets, in seconds.

    With `auto`, the times between the last keyframes are observed. Where they are no longer than `demand.every`, the
    keyframe nearest to each wanted time is decoded alone. Where they are longer, each group of pictures is decoded from
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

    def choose(self, keyframe: bool, time: float | None) -> Action:
        """What to do with the next packet. time: its presentation timestamp; None: unknown."""
        if keyframe:
            self.after_gap, self._dropped = not self._complete, False
            self._note_keyframe(time)
        elif self._dropped or (self.after_gap and self._is_leading(time)):
            return Action.DROP
        action = self._choose(keyframe, time)
        self._complete = action is Action.DECODE
        self._dropped = action is Action.DROP
        return action

    def took(self, time: float | None) -> None:
        """A frame with this timestamp was yielded, and `demand.wait` set."""
        self._newest, self._wait = time, self._demand.wait

    def distrust(self) -> None:
        """What is marked as keyframes cannot be decoded alone: decode everything from now on."""
        self._trusted = False

    def caught_up(self) -> None:
        """The held packets were decoded after all."""
        self._complete = True

    def _choose(self, keyframe: bool, time: float | None) -> Action:
        demand = self._demand
        self.spacing, self.alone = 0.0, False
        if demand.decode == "keyframes" or self.catch_up:
            # Frames skipped by an overload count as missed; unwanted ones do not.
            self.spacing = max(self._gaps, default=0.0) if demand.decode == "keyframes" else 0.0
            self.alone = keyframe
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
            self.alone = keyframe and time >= due - gap / 2
            return Action.DECODE if self.alone else Action.HOLD
        early = _EARLY * demand.every
        self.spacing = 2 * early if keyframe else 0.0
        overdue = time > self._key_time + max(self._gaps) + early
        return Action.DECODE if overdue or due < self._key_time + gap - early else Action.HOLD

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
