"""`SourceThread`: one connection to a source, on its own thread: decode, buffer, sample, convert, submit."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av

from streamcap.errors import StreamcapError
from streamcap.media.cpu_slots import cpu_slot
from streamcap.media.frame import Frame, Sample
from streamcap.media.ring import FrameRing
from streamcap.media.sources.base import Source, SourceInfo, SourceLost
from streamcap.media.timing.schedule import Schedule
from streamcap.media.timing.timeline import Timeline
from streamcap.redact import redact
from streamcap.streams.pending_samples import PendingSamples
from streamcap.streams.settings import StreamSettings
from streamcap.streams.source.source_lag import SourceLag
from streamcap.streams.stream_deps import StreamDeps

log = logging.getLogger(__name__)

# Frames that wait this long to be decoded are skipped up to the newest keyframe, until they wait less than this.
CATCH_UP_SECONDS = 2.0
CAUGHT_UP_SECONDS = 0.5
# Of the threads of sources, above that of the process.
NICENESS = 5
# If that does not help, what waits in the sockets is skipped by connecting again: beyond this lag, and not more often.
SKIP_AHEAD_SECONDS = 6.0
SKIP_AHEAD_INTERVAL_S = 15.0
# A thread that was ready to run, but without a core, for this share of the time it took to open its source.
STARVED_SHARE = 0.25


class SourceListener(Protocol):
    """Callbacks of one connection. All run on the source's thread."""

    def opened(self, info: SourceInfo) -> None: ...
    def first_frame(self, frame: Frame) -> None: ...
    def ended(self, error: StreamcapError | None) -> None:
        """The connection ended because of `error`; None after `stop`."""


@dataclass(slots=True)
class SourceStatistics:
    """Counters over all connections of one stream. Only the source's thread writes them."""

    frames: int = 0
    sampled: int = 0
    frame_conversion_errors: int = 0
    samples_missed: int = 0
    """Scheduled times for which no frame was taken."""


class SourceThread:
    """Reads `source` until it ends or `stop` is called.

    Parameters:
        connection_no: counts the connections of this stream, so that the timeline can tell their epochs apart.
    """

    def __init__(
        self,
        stream: str,
        source: Source,
        deps: StreamDeps,
        listener: SourceListener,
        *,
        connection_no: int,
        ring: FrameRing,
        schedule: Schedule,
        settings: StreamSettings,
        timeline: Timeline,
        statistics: SourceStatistics,
        pending: PendingSamples,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.last_frame_at: float | None = None
        """Monotonic seconds at which the newest frame arrived; None before the first."""
        self.lag = SourceLag()
        self.starved = False
        """Whether the source could not be opened while the thread waited for a core for much of the time."""
        self.settings = settings
        """Replaced as a whole by `change`: read it once a frame."""
        self._stream = stream
        self._connection_no = connection_no
        self._ring = ring
        self._schedule = schedule
        self._timeline = timeline
        self._models = deps.models
        self._phases = deps.phases
        self._submit = deps.submit
        self._pending = pending
        self._clip_seconds = deps.options.clip_seconds
        self._listener = listener
        self._statistics = statistics
        self._samples_missed_before = statistics.samples_missed
        self._monotonic = monotonic
        self._stopping = False
        self._opened_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"source-{stream}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive_at(self) -> float | None:
        """Monotonic seconds at which the source last gave a frame or skipped one; None before the first frame."""
        skipped_at = self.source.skipped_at()
        if self.last_frame_at is None or skipped_at is None:
            return self.last_frame_at
        return max(self.last_frame_at, skipped_at)

    def stop(self) -> None:
        """Request the end; `ended` is called within the source's read timeout. Idempotent, from any thread."""
        self._stopping = True
        self.source.stop()

    def watch(self, now: float) -> None:
        """Judge whether frames wait because this machine is too slow; if so, decode fewer. A few times a second."""
        waits = self.source.waits
        if waits is None:
            return
        # A thread that is ready to run but does not get a core seems to wait.
        self.lag.note_waits(now, waits.total(now) - _run_delay(self._thread.native_id))
        if self.lag.seconds < CAUGHT_UP_SECONDS:
            self.source.catch_up = False
        elif self.lag.seconds > CATCH_UP_SECONDS and self.lag.is_ours():
            self.source.catch_up = True

    def should_skip_ahead(self, now: float) -> bool:
        """Whether so much video waits to be read that a new connection is the way to the newest frame."""
        opened = self._opened_at
        if opened is None or now - opened < SKIP_AHEAD_INTERVAL_S or not self.source.catch_up:
            return False
        return self.lag.seconds > SKIP_AHEAD_SECONDS and self.lag.is_ours()

    def is_source_silent(self, now: float, seconds: float) -> bool:
        """Whether the other side is the reason that no frame came for `seconds`."""
        waits = self.source.waits
        if waits is None:
            return True
        if self.source.catch_up:
            return waits.waiting_for(now) >= seconds
        return not self.lag.is_ours()

    def change(self, settings: StreamSettings, every: float) -> None:
        """Use other settings, and `every` seconds between samples, from the next frame on. From any thread."""
        self.settings = settings
        self._schedule.change(every)

    def _run(self) -> None:
        end: StreamcapError | None = None
        _yield_cores()
        try:
            self._listener.opened(self._open())
            self._opened_at = self._monotonic()
            for frame in self.source.frames():
                self._take(frame)
                if self.source.demand is not None:
                    self.source.demand.wait = self._schedule.wait(frame)
                if self._stopping:
                    break
        except StreamcapError as error:
            end = error
        except Exception as error:  # an unexpected error costs this connection, not the stream
            log.exception("the source of stream %s failed", self._stream, extra={"stream": self._stream})
            end = SourceLost(redact(f"{type(error).__name__}: {error}".splitlines()[0]))
        finally:
            self.source.close()
            self._phases.forget(self._stream)
        self._listener.ended(None if self._stopping else end or SourceLost("the source ended without a reason"))

    def _open(self) -> SourceInfo:
        thread = threading.get_native_id()
        began, delayed = self._monotonic(), _run_delay(thread)
        try:
            return self.source.open()
        except StreamcapError:
            self.starved = _run_delay(thread) - delayed > STARVED_SHARE * (self._monotonic() - began)
            raise

    def _take(self, frame: Frame) -> None:
        first = self.last_frame_at is None
        # When its bytes arrived: a decoder may release delayed frames only at a timeout.
        self.last_frame_at = min(frame.arrived, self._monotonic())
        if first:
            self._listener.first_frame(frame)
        self._statistics.frames += 1
        self.lag.note(frame)
        try:
            self._ring.push(frame)
        except av.FFmpegError as error:
            self._lose(error)
            return
        start = self._timeline.place(self._connection_no, frame.epoch, frame.time, frame.arrived)
        if not self._schedule.due(frame):
            return
        self._statistics.samples_missed = self._samples_missed_before + self._schedule.missed
        settings = self.settings
        model = self._models.get(settings.model)
        choice = self.source.frame_choice()
        earlier, after = self._phases.place(self._stream, frame.arrived, self._schedule.every, choice)
        self._schedule.come_earlier(earlier)
        if self.source.demand is not None:
            self.source.demand.after = after
        try:
            # Not `frame` itself: what the ring gives is masked.
            frames = self._ring.window(self._clip_seconds, model.clip_length or 1)
            if not frames:
                return  # the mask was changed just now
            with cpu_slot:
                pixels, images = model.convert(frames), model.images(frames)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            self._lose(error)
            return
        self._statistics.sampled += 1
        sample = Sample(
            stream=self._stream,
            pixels=pixels,
            epoch=self._timeline.epoch,
            start=start,
            captured_at=frame.captured_at,
            captured_at_source=frame.captured_at_source,
            arrived=frame.arrived,
            submitted=self._monotonic(),
            model=model.name,
            encoder=model.encoder,
            prompt=settings.prompt,
            images=images,
            notice=model.notice(),
        )
        self._pending.submit(sample, self._submit)

    def _lose(self, error: Exception) -> None:
        """One frame is lost, the stream continues."""
        self._statistics.frame_conversion_errors += 1
        text = redact(error)
        log.warning("stream %s: a frame could not be converted: %s", self._stream, text, extra={"stream": self._stream})


def _yield_cores() -> None:
    """Let the event loop and the model's thread go first where cores are short. On Linux, threads have priorities."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))


def _run_delay(thread_id: int | None) -> float:
    """Seconds that a thread was ready to run and had no core; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/self/task/{thread_id}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
