"""`FrameRing`: the newest frames of one stream, unconverted."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque

from streamcap.errors import InputError
from streamcap.media.frame import Frame


class FrameRing:
    """Bounded by seconds of media time and by a number of frames. All its frames belong to one epoch.

    One thread pushes, any thread may read. Decoded frames are large (1.4 MB at 720p, 3 MB at 1080p): keep few.

    Parameters:
        spacing: seconds of media time between stored frames. The newest frame is always stored, and removed for the
            next one if it is too close to the frame before it. 0: store every frame.
    """

    def __init__(self, *, seconds: float, frames: int, spacing: float = 0.0) -> None:
        if not seconds > 0 or frames < 1 or not spacing >= 0:
            raise InputError(
                f"a ring of {seconds:g} seconds, {frames} frames and {spacing:g} spacing cannot store a frame"
            )
        self._spacing = spacing
        self._seconds = seconds
        self._max_frames = frames
        self._frames: deque[Frame] = deque()
        self._lock = threading.Lock()

    def push(self, frame: Frame) -> None:
        """Store the next frame. A new epoch or an earlier time empties the ring first."""
        with self._lock:
            if self._frames and (frame.epoch != self._frames[-1].epoch or frame.time < self._frames[-1].time):
                self._frames.clear()
            elif len(self._frames) > 1 and self._frames[-1].time - self._frames[-2].time < self._spacing:
                self._frames.pop()
            self._frames.append(frame)
            while len(self._frames) > self._max_frames or frame.time - self._frames[0].time > self._seconds:
                self._frames.popleft()

    def newest(self) -> Frame | None:
        """The last frame that was pushed; None if the ring is empty."""
        with self._lock:
            return self._frames[-1] if self._frames else None

    def window(self, seconds: float, count: int) -> list[Frame]:
        """`count` frames evenly over the last `seconds`, oldest first, ending with the newest.

        A ring that covers less time is used completely; few frames are repeated. Empty if the ring is empty.
        """
        if count < 1:
            raise InputError(f"a window of {count} frames: at least 1")
        with self._lock:
            frames = list(self._frames)
        if not frames:
            return []
        if count == 1:
            return [frames[-1]]
        times = [frame.time for frame in frames]
        newest = times[-1]
        first = max(times[0], newest - seconds)
        return [frames[_nearest(times, first + (newest - first) * i / (count - 1))] for i in range(count)]


def _nearest(times: list[float], target: float) -> int:
    after = min(bisect_left(times, target), len(times) - 1)
    before = max(0, after - 1)
    return before if target - times[before] < times[after] - target else after
