"""`FrameRing`: the newest frames of one stream, unconverted. Frames leave it masked."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from streamcap.errors import InputError
from streamcap.media.frame import Frame
from streamcap.media.frame_mask import FrameMask
from streamcap.media.mask import Mask


@dataclass(slots=True)
class _Stored:
    frame: Frame
    masked: bool = False


class FrameRing:
    """Bounded by seconds of media time and by a number of frames. All its frames belong to one epoch.

    Frames are seen only through here, so the stream's mask is applied here: when a frame is first taken, because most
    never are. One thread pushes, any thread may read. Decoded frames are large (1.4 MB at 720p, 3 MB at 1080p): keep
    few.

    Parameters:
        mask: None for none.
        spacing: seconds of media time between stored frames. The newest frame is always stored, and removed for the
            next one if it is too close to the frame before it. 0: store every frame.
    """

    def __init__(self, *, seconds: float, frames: int, spacing: float = 0.0, mask: Mask | None = None) -> None:
        if not seconds > 0 or frames < 1 or not spacing >= 0:
            raise InputError(
                f"a ring of {seconds:g} seconds, {frames} frames and {spacing:g} spacing cannot store a frame"
            )
        self._spacing, self._seconds, self._max_frames = spacing, seconds, frames
        self._stored: deque[_Stored] = deque()
        self._mask = None if mask is None else FrameMask(mask)
        self._lock = threading.Lock()

    def resize(self, *, seconds: float, frames: int, spacing: float = 0.0) -> None:
        """Use other bounds from the next frame on."""
        with self._lock:
            self._spacing, self._seconds, self._max_frames = spacing, seconds, frames

    def set_mask(self, mask: Mask | None) -> None:
        """Mask the frames from now on. Older frames are forgotten: they may show what must no longer be seen."""
        with self._lock:
            self._mask = None if mask is None else FrameMask(mask)
            self._stored.clear()

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._stored.clear()

    def push(self, frame: Frame) -> None:
        """Store the next frame. A new epoch or an earlier time empties the ring first.

        Raises UnmaskableError, av.FFmpegError; such a frame is not stored.
        """
        with self._lock:
            if self._mask is not None:
                frame = self._mask.prepare(frame)
            stored = self._stored
            if stored and (frame.epoch != stored[-1].frame.epoch or frame.time < stored[-1].frame.time):
                stored.clear()
            elif len(stored) > 1 and stored[-1].frame.time - stored[-2].frame.time < self._spacing:
                stored.pop()
            stored.append(_Stored(frame))
            while len(stored) > self._max_frames or frame.time - stored[0].frame.time > self._seconds:
                stored.popleft()

    def newest(self) -> Frame | None:
        """The last frame that was pushed; None if the ring is empty. Masking may take a millisecond."""
        with self._lock:
            return self._masked(self._stored[-1]) if self._stored else None

    def window(self, seconds: float, count: int) -> list[Frame]:
        """`count` frames evenly over the last `seconds`, oldest first, ending with the newest.

        A ring that covers less time is used completely; few frames are repeated. Empty if the ring is empty.
        """
        if count < 1:
            raise InputError(f"a window of {count} frames: at least 1")
        with self._lock:
            if not self._stored:
                return []
            if count == 1:
                return [self._masked(self._stored[-1])]
            times = [stored.frame.time for stored in self._stored]
            newest = times[-1]
            first = max(times[0], newest - seconds)
            chosen = [_nearest(times, first + (newest - first) * i / (count - 1)) for i in range(count)]
            return [self._masked(self._stored[index]) for index in chosen]

    def _masked(self, stored: _Stored) -> Frame:
        if self._mask is not None and not stored.masked:
            self._mask.apply(stored.frame.video_frame)
            stored.masked = True
        return stored.frame


def _nearest(times: list[float], target: float) -> int:
    after = min(bisect_left(times, target), len(times) - 1)
    before = max(0, after - 1)
    return before if target - times[before] < times[after] - target else after
