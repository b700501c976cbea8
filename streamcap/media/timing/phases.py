"""`SamplingPhases`: spreads the samples of streams whose frames come at the same time."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from streamcap.media.demand import FrameChoice

BIN_SECONDS = 0.002
# The time of one caption, before it is known; and its bounds.
_CAPTION_SECONDS = 0.05
_MIN_CAPTION_SECONDS, _MAX_CAPTION_SECONDS = 0.02, 0.25
_TIMINGS = 15
# A place to move to is this much farther from others than needed, so that streams do not move back and forth.
_MARGIN = 1.2
# Samples of a stream before its phase is judged, and again after that.
_SAMPLES = 8
_FIRST_SAMPLES = 3
# Frames after a keyframe that may be decoded for a place of its own, and their duration.
_MAX_FRAMES = 4
_MAX_AFTER_SECONDS = 0.25


@dataclass(slots=True)
class _Phase:
    every: float
    bin: int
    left: int
    """Samples until it is judged again."""
    frames: int = 0
    """Frames between the keyframe and the one that is sampled."""
    after: float = 0.0
    """The same, seconds."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A frame that a stream may take instead of one that arrived now."""

    arrives: float
    """Monotonic seconds, some intervals ago."""
    frames: int
    earlier: float


class SamplingPhases:
    """For streams that may choose between frames: cameras of which keyframes alone are decoded.

    Cameras of one recorder often send their keyframes at the same instant. Their samples would wait for one another,
    each for the time of a caption. So streams in step take other keyframes if several come in an interval. Those that
    meet others even so take a frame soon after a keyframe, where no other stream is sampled: that costs the decoding of
    the frames up to it, and spares the wait. Any thread may call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._streams: Counter[tuple[float, int]] = Counter()
        """Streams by interval and the part of it in which their samples arrive."""
        self._timings: deque[float] = deque(maxlen=_TIMINGS)
        self._caption_seconds = _CAPTION_SECONDS

    def note(self, seconds: float) -> None:
        """The model took `seconds` for a caption."""
        with self._lock:
            self._timings.append(seconds)
            self._caption_seconds = min(max(median(self._timings), _MIN_CAPTION_SECONDS), _MAX_CAPTION_SECONDS)

    def place(self, stream: str, arrived: float, every: float, choice: FrameChoice) -> tuple[float, float]:
        """Where the next samples of `stream` should be, so that they meet fewer others. Two times in seconds:

        by how much earlier the next one should come than `every` seconds after the one that arrived now (mostly 0,
        below 0: later), and how long after a keyframe (`FrameDemand.after`).

        arrived: monotonic seconds. choice: of frames, instead of the one that arrived now.
        """
        with self._lock:
            phase = self._phases.get(stream)
            if phase is None or phase.every != every:
                phase = _Phase(every, 0, _FIRST_SAMPLES, *(() if phase is None else (phase.frames, phase.after)))
            self._remove(stream)
            if choice.keyframes > 0 and not choice.frames:
                phase.frames, phase.after = 0, 0.0
            phase.bin, earlier = self._bin(arrived, every), 0.0
            if phase.left <= 0:
                phase.left = _SAMPLES
                best = self._best(phase, arrived, choice)
                phase.bin, phase.frames, earlier = self._bin(best.arrives, every), best.frames, best.earlier
                if choice.keyframes > 0:
                    phase.after = best.frames * choice.frames
            phase.left -= 1
            self._phases[stream] = phase
            self._streams[every, phase.bin] += 1
            return earlier, phase.after

    def forget(self, stream: str) -> None:
        """The stream has ended, or lost its source."""
        with self._lock:
            self._remove(stream)

    def _remove(self, stream: str) -> None:
        phase = self._phases.pop(stream, None)
        if phase is not None:
            key = phase.every, phase.bin
            self._streams[key] -= 1
            if not self._streams[key]:
                del self._streams[key]

    def _best(self, phase: _Phase, arrived: float, choice: FrameChoice) -> _Place:
        """The place with the fewest others, the present one if there is none better."""
        best = _Place(arrived, phase.frames, 0.0)
        fewest = self._others(phase.every, arrived, self._caption_seconds), best.frames
        for place in _places(phase, arrived, choice):
            others = self._others(phase.every, place.arrives, _MARGIN * self._caption_seconds)
            # Frames after a keyframe cost CPU time, so that they have to be worth it.
            if (others, place.frames) < fewest and not (others and place.frames):
                best, fewest = place, (others, place.frames)
        return best

    def _bin(self, time: float, every: float) -> int:
        return int(time % every / BIN_SECONDS)

    def _others(self, every: float, arrives: float, seconds: float) -> int:
        """Streams whose samples arrive within `seconds` of this one's, before or after it."""
        count = max(1, math.ceil(every / BIN_SECONDS - 1e-9))
        number, reach = self._bin(arrives, every), math.ceil(seconds / BIN_SECONDS) - 1
        near = {(number + offset) % count for offset in range(-reach, reach + 1)}
        return sum(self._streams.get((every, one), 0) for one in near)


def _places(phase: _Phase, arrived: float, choice: FrameChoice) -> Iterator[_Place]:
    """All places but the present one, the nearest keyframe and the fewest frames after it first."""
    if choice.keyframes <= 0:
        return
    most = 0
    if choice.frames > 0:
        seconds = min(_MAX_AFTER_SECONDS, choice.keyframes / 2)
        most = min(_MAX_FRAMES, int(seconds / choice.frames + 1e-6))
    steps = max(1, int(phase.every / choice.keyframes + 0.1))
    for frames in range(most + 1):
        for step in range(steps):
            if (step, frames) != (0, phase.frames):
                earlier = step * choice.keyframes + (phase.frames - frames) * choice.frames
                yield _Place(arrived - earlier, frames, earlier)
