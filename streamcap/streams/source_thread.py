"""`SourceThread`: one opening of a source, on a thread of its own: decode, keep, choose, convert, hand to the engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import av

from streamcap.errors import StreamcapError
from streamcap.media.frame import Frame, Sample
from streamcap.media.ring import FrameRing
from streamcap.media.schedule import Schedule
from streamcap.media.sources.base import Source, SourceInfo, SourceLost
from streamcap.media.timeline import Timeline
from streamcap.redact import redact
from streamcap.streams.stream_deps import StreamDeps

log = logging.getLogger(__name__)


class ReaderListener(Protocol):
    """Who hears of one opening of a source. All are called on the reader's thread."""

    def opened(self, info: SourceInfo) -> None: ...
    def first_frame(self, frame: Frame) -> None: ...
    def sampled(self, sample: Sample) -> None:
        """A sample for the engine; must not block."""

    def ended(self, error: StreamcapError | None) -> None:
        """What ended it; None after `stop`."""


@dataclass(slots=True)
class SourceStatistics:
    """Counted over all openings of one stream's source; written by the reading thread alone."""

    frames: int = 0
    sampled: int = 0
    frame_conversion_errors: int = 0
    samples_missed: int = 0
    """Moments for which no frame was taken."""


class SourceThread:
    """Reads `source` until it ends or `stop` is called.

    Parameters:
        opening: counts the openings of this stream's source, so that the timeline tells their epochs apart.
    """

    def __init__(
        self,
        stream: str,
        source: Source,
        deps: StreamDeps,
        listener: ReaderListener,
        *,
        connection_no: int,
        ring: FrameRing,
        schedule: Schedule,
        timeline: Timeline,
        statistics: SourceStatistics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.last_frame_at: float | None = None
        """Monotonic seconds of the newest frame's arrival; None before the first."""
        self._stream = stream
        self._opening = connection_no
        self._ring = ring
        self._schedule = schedule
        self._timeline = timeline
        self._convert = deps.convert
        self._clip_length = deps.clip_length
        self._clip_seconds = deps.options.clip_seconds
        self._listener = listener
        self._statistics = statistics
        self._samples_missed_before = statistics.samples_missed
        self._monotonic = monotonic
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"source-{stream}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; `ended` is called within the source's read timeout. Idempotent, from any thread."""
        self._stopping = True
        self.source.stop()

    def _run(self) -> None:
        end: StreamcapError | None = None
        try:
            self._listener.opened(self.source.open())
            for frame in self.source.frames():
                self._take(frame)
                if self._stopping:
                    break
        except StreamcapError as error:
            end = error
        except Exception as error:  # a decoder's unforeseen failure costs this opening, not the stream
            log.exception("the source of stream %s failed", self._stream)
            end = SourceLost(redact(f"{type(error).__name__}: {error}".splitlines()[0]))
        finally:
            self.source.close()
        self._listener.ended(None if self._stopping else end or SourceLost("the source stopped without saying why"))

    def _take(self, frame: Frame) -> None:
        first = self.last_frame_at is None
        # When its bytes came: a decoder may hand out at a timeout what it held back.
        self.last_frame_at = min(frame.arrived, self._monotonic())
        if first:
            self._listener.first_frame(frame)
        self._statistics.frames += 1
        self._ring.push(frame)
        start = self._timeline.place(self._opening, frame.epoch, frame.time, frame.arrived)
        if not self._schedule.due(frame):
            return
        self._statistics.samples_missed = self._samples_missed_before + self._schedule.missed
        frames = [frame] if self._clip_length is None else self._ring.window(self._clip_seconds, self._clip_length)
        try:
            pixels = self._convert(frames)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            # A frame that cannot be converted is one frame lost, not the stream.
            self._statistics.frame_conversion_errors += 1
            log.warning("stream %s: a frame could not be converted: %s", self._stream, redact(error))
            return
        self._statistics.sampled += 1
        self._listener.sampled(
            Sample(
                stream=self._stream,
                pixels=pixels,
                epoch=self._timeline.epoch,
                start=start,
                captured_at=frame.captured_at,
                captured_at_source=frame.captured_at_source,
                arrived=frame.arrived,
                submitted=self._monotonic(),
            )
        )
