"""`FrameRing`: the newest frames of one stream, unconverted."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque

from streamcap.errors import InputError
from streamcap.media.frame import Frame


class FrameRing:
    """Bounded in seconds of media time and in frames, whichever is less. All its frames are of one epoch.

    Any thread may ask; one pushes. Decoded frames are large (1.4 MB at 720p, 3 MB at 1080p): hold no more than are
    wanted.

    Parameters:
        spacing: seconds of media time between the frames held; the newest is held besides, and goes when a newer one
            comes. 0: every frame.
    """

    def __init__(self, *, seconds: float, frames: int, spacing: float = 0.0) -> None:
        if not seconds > 0 or frames < 1 or not spacing >= 0:
            raise InputError(f"a ring of {seconds:g} seconds, {frames} frames and {spacing:g} spacing holds nothing")
        self._spacing = spacing
        self._seconds = seconds
        self._most = frames
        self._held: deque[Frame] = deque()
        self._lock = threading.Lock()

    def push(self, frame: Frame) -> None:
        """Take the next frame in; a new epoch, or an earlier time, empties the ring first."""
        with self._lock:
            if self._held and (frame.epoch != self._held[-1].epoch or frame.time < self._held[-1].time):
                self._held.clear()
            elif len(self._held) > 1 and self._held[-1].time - self._held[-2].time < self._spacing:
                self._held.pop()
            self._held.append(frame)
            while len(self._held) > self._most or frame.time - self._held[0].time > self._seconds:
                self._held.popleft()

    def newest(self) -> Frame | None:
        """The last one pushed."""
        with self._lock:
            return self._held[-1] if self._held else None

    def window(self, seconds: float, count: int) -> list[Frame]:
        """`count` frames evenly over the last `seconds`, oldest first, ending with the newest.

        Where less is held they spread over what there is; where frames are few some come twice. Empty if none is held.
        """
        if count < 1:
            raise InputError(f"a window of {count} frames: at least 1")
        with self._lock:
            held = list(self._held)
        if not held:
            return []
        if count == 1:
            return [held[-1]]
        times = [frame.time for frame in held]
        newest = times[-1]
        first = max(times[0], newest - seconds)
        return [held[_nearest(times, first + (newest - first) * i / (count - 1))] for i in range(count)]


def _nearest(times: list[float], wanted: float) -> int:
    after = min(bisect_left(times, wanted), len(times) - 1)
    before = max(0, after - 1)
    return before if wanted - times[before] < times[after] - wanted else after
