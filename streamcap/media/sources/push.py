"""`PushSource`: frames that are decoded elsewhere, such as those of a WebRTC publisher."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

from av import VideoFrame

from streamcap.media.frame import Frame
from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceLost, SourceRefused
from streamcap.media.timing.clock import MediaClock
from streamcap.redact import redact

QUEUE_FRAMES = 8


class PushSource(Source):
    """The event loop offers frames, the reading thread takes them. Drop policy: oldest first, counted as `dropped`.

    `open` waits for the first frame without a timeout; `stop` ends the wait. Frames may change their size at any
    time.
    """

    def __init__(
        self,
        url: str = "whip:",
        *,
        read_timeout: float = 5.0,
        max_frames: int = QUEUE_FRAMES,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.url = redact(url)
        self._read_timeout = read_timeout
        self._monotonic = monotonic
        self._wall = wall
        self._waiting: deque[tuple[VideoFrame, float, float]] = deque()
        self._max_frames = max_frames
        self._changed = threading.Condition()
        self._end: SourceLost | SourceEnded | None = None
        self._stopped = False
        self._clock = MediaClock()
        self._frames = 0
        self._dropped = 0

    def offer(self, video_frame: VideoFrame) -> bool:
        """Queue the next frame; never blocks. Returns False if the source is stopped or finished."""
        with self._changed:
            if self._stopped or self._end is not None:
                return False
            if len(self._waiting) >= self._max_frames:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((video_frame, self._monotonic(), self._wall()))
            self._changed.notify()
            return True

    def finish(self, reason: str, *, ended: bool = False) -> None:
        """No more frames: `frames` raises SourceLost (another publisher may connect), or SourceEnded if `ended`."""
        with self._changed:
            if self._end is None:
                kind = SourceEnded if ended else SourceLost
                self._end = kind(f"{self.url}: {redact(reason)}")
            self._changed.notify()

    def open(self) -> SourceInfo:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped or self._end is not None)
            if self._waiting:
                video_frame = self._waiting[-1][0]
                return SourceInfo(video_frame.width, video_frame.height, 0.0, "webrtc", live=True)
            reason = f"{self.url}: stopped while waiting" if self._end is None else str(self._end)
            raise SourceRefused(reason, retry=True)

    def frames(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._stopped or self._end is not None, timeout=self._read_timeout
                )
                if self._stopped:
                    return
                if not self._waiting:
                    raise self._end or SourceLost(f"{self.url}: no frame for {self._read_timeout:g} s")
                video_frame, arrived, wall = self._waiting.popleft()
            self._frames += 1
            stamp = self._clock.stamp(video_frame.pts, video_frame.time_base or Fraction(1, 90_000), arrived)
            yield Frame(
                video_frame=video_frame,
                pts=stamp.pts,
                time_base=stamp.time_base,
                time=stamp.time,
                epoch=stamp.epoch,
                arrived=arrived,
                captured_at=wall,
                captured_at_source="arrival",
            )

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify()

    def statistics(self) -> dict[str, int]:
        return {
            "frames": self._frames,
            "decode_errors": 0,
            "repaired_pts": self._clock.repaired,
            "epochs": self._clock.epochs,
            "dropped": self._dropped,
        }
