"""`SamplingPhases`: spreads the samples of streams whose frames come at the same time."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass

# Samples that arrive within so many seconds of each other wait for one another.
BIN_SECONDS = 0.05
# Samples of a stream before its phase is judged, and again after that.
_SAMPLES = 8
_FIRST_SAMPLES = 3


@dataclass(slots=True)
class _Phase:
    every: float
    bin: int
    samples: int
    """Until it is judged again."""


class SamplingPhases:
    """For streams that may choose between frames: cameras whose keyframes come several times in an interval.

    Cameras of one recorder often send their keyframes at the same instant. All but one of their samples would wait for
    the model. Any thread may call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._streams: Counter[tuple[float, int]] = Counter()
        """Streams by interval and the part of it in which their samples arrive."""

    def earlier(self, stream: str, arrived: float, every: float, step: float) -> float:
        """By how many seconds, a multiple of `step` and less than `every`, the next sample of `stream` should come
        earlier than `every` seconds after the one that arrived now, so that it meets fewer others. Mostly 0.

        arrived: monotonic seconds. step: seconds between the frames to choose from; 0: no choice.
        """
        with self._lock:
            phase = self._phases.get(stream)
            left = _FIRST_SAMPLES if phase is None or phase.every != every else phase.samples
            self._remove(stream)
            here = self._bin(arrived, every)
            best, shift = here, 0.0
            if left <= 0:
                left = _SAMPLES
                fewest = self._others(every, here)
                for steps in range(1, int(every / step + 0.1) if step > 0 else 0):
                    other = self._bin(arrived - steps * step, every)
                    if (others := self._others(every, other)) < fewest:
                        fewest, best, shift = others, other, steps * step
            self._phases[stream] = _Phase(every, best, left - 1)
            self._streams[every, best] += 1
            return shift

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

    def _bin(self, time: float, every: float) -> int:
        return int(time % every / BIN_SECONDS)

    def _others(self, every: float, number: int) -> int:
        """Streams whose samples arrive in the part `number` of the interval, or next to it."""
        count = max(1, math.ceil(every / BIN_SECONDS - 1e-9))
        near = {(number + offset) % count for offset in (-1, 0, 1)}
        return sum(self._streams.get((every, one), 0) for one in near)
