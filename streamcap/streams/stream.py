"""`Stream`: one stream's life — its source opened and reopened for ever, its captions tracked, published and filed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.cue import merge_cues
from streamcap.captions.event import Payload, Status, StreamState
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.track import CaptionTrack, SampleTime
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Times, Unchanged, Unconfirmed
from streamcap.errors import StreamcapError
from streamcap.media.frame import Frame, Sample
from streamcap.media.ring import FrameRing
from streamcap.media.schedule import Schedule
from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceRefused
from streamcap.media.sources.push import PushSource
from streamcap.media.timeline import Timeline
from streamcap.redact import redact
from streamcap.streams.backoff import Backoff
from streamcap.streams.caption_files import CaptionFiles, SavedHistory
from streamcap.streams.file_writer import CaptionFileWriter, wait_through_cancel
from streamcap.streams.options import StreamOptions
from streamcap.streams.snapshot import StreamSnapshot
from streamcap.streams.source_thread import Convert, SourceStatistics, SourceThread

log = logging.getLogger(__name__)
_T = TypeVar("_T")

STALL_CHECK_S = 0.25
# A connection that gave frames and lived so long was a good one: the next pause is short again.
STABLE_AFTER_S = 10.0
# How long a removed stream's reader may take; after that its daemon thread is left to its own read timeout.
READER_STOP_TIMEOUT_S = 1.5
# How long a source that has ended waits for the caption of its last sample.
DRAIN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class StreamDeps:
    """What a stream needs of the house."""

    options: StreamOptions
    hub: Hub
    open_source: Callable[[str], Source]
    convert: Convert
    submit: Callable[[Sample], None]
    clip_length: int | None


@dataclass(frozen=True, slots=True)
class Counters:
    """The lowest sequence number and the lowest number of an id that no stream of this name has used in this run."""

    seq: int = 1
    caption: int = 1


def _ring(deps: StreamDeps) -> FrameRing:
    """What a sample looks back at: a few frames for each of a clip model's, for any other model the newest alone."""
    seconds, clip_length = deps.options.clip_seconds, deps.clip_length
    if clip_length is None:
        return FrameRing(seconds=seconds, frames=1)
    steps = 4 * clip_length
    spacing = seconds / steps
    # One spacing more, since frames do not fall on the window's edge; both ends count, and so does the newest.
    return FrameRing(seconds=seconds + spacing, frames=steps + 3, spacing=spacing)


def _sample_time(sample: Sample) -> SampleTime:
    return SampleTime(sample.epoch, sample.start, sample.captured_at, sample.captured_at_source)


class Stream:
    """All methods on the event loop. `run` is its one task; the set of streams owns it."""

    def __init__(self, name: str, url: str, every: float, deps: StreamDeps, counters: Counters | None = None) -> None:
        self.name = name
        self.url = redact(url)
        self.every = every
        self.state = StreamState.CONNECTING
        self.reason = ""
        self.info: SourceInfo | None = None
        self.reader_statistics = SourceStatistics()
        self.captions = 0
        self.extended = 0
        self.skipped = 0
        self.reconnections = 0
        self._secret_url = url
        self._deps = deps
        self._first_counters = counters or Counters()
        self._created = time.monotonic()
        self._feed = EventLog(name, keep=deps.options.replay_events)
        self.track = CaptionTrack(name, every=every, window=deps.options.subtitle_window)
        self._timeline = Timeline()
        self._ring = _ring(deps)
        self._source_thread: SourceThread | None = None
        self._files: CaptionFiles | None = None
        self._filing: CaptionFileWriter | None = None
        self._error_text = ""
        self._model_problem = ""
        self._disk_problem = ""
        self._closed = False
        self._submitted: Sample | None = None
        self._answered: Sample | None = None
        self._answered_event = asyncio.Event()

    @property
    def source_url(self) -> str:
        """With its password: never shown."""
        return self._secret_url

    async def prepare(self) -> None:
        """Go on with the numbers of an earlier stream of this name, and take up what one filed.

        Raises OSError; InputError where the files are another's.
        """
        out = self._deps.options.out
        if out is None:
            self._refill(SavedHistory([], [], self._first_counters.seq))
        else:
            files = self._files = CaptionFiles(out, self.name)
            await asyncio.to_thread(files.lock)
            load_history = await asyncio.to_thread(files.load_history, self._deps.options.subtitle_window)
            load_history = replace(load_history, next_seq=max(load_history.next_seq, self._first_counters.seq))
            await asyncio.to_thread(files.reserve_seq, load_history.next_seq)
            self._refill(load_history)
            self._filing = CaptionFileWriter(
                files, lambda: merge_cues(self.track.finals), lambda: self._feed.last_seq, self._release, self._on_disk
            )

    def unlock(self) -> None:
        """Let go of its files: it never began, or is over. Idempotent."""
        if self._files is not None:
            self._files.unlock()

    def counters(self) -> Counters:
        """Where another stream of this name may go on."""
        first = self._first_counters
        return Counters(max(first.seq, self._feed.last_seq + 1), max(first.caption, self.track.next_number))

    def register(self) -> None:
        """Be there for viewers."""
        self._deps.hub.add(self._feed)

    async def run(self) -> None:
        """Read for ever; returns when the source has ended for good. Cancelled, it closes the last cue and files."""
        filing = asyncio.create_task(self._filing.run(), name=f"files-{self.name}") if self._filing else None
        try:
            await self._supervise()
        except asyncio.CancelledError:
            self._set_state(StreamState.ENDED, "stopped")
            raise
        finally:
            self._close_cue()
            # What is still being captioned would be neither filed nor within the closed cue.
            self._closed = True
            try:
                if self._filing is not None and filing is not None:
                    self._filing.close()
                    await wait_through_cancel(filing)
            finally:
                self.unlock()

    def view(self) -> StreamSnapshot:
        """A snapshot."""
        info = self.info or SourceInfo(0, 0, 0.0, "", live=True)
        last = self.track.last
        return StreamSnapshot(
            name=self.name,
            url=self.url,
            every=self.every,
            state=self.state.value,
            reason=self.reason,
            width=info.width,
            height=info.height,
            frames_per_second=info.frames_per_second,
            codec=info.codec,
            epoch=max(0, self._timeline.epoch),
            frames=self.reader_statistics.frames,
            sampled=self.reader_statistics.sampled,
            captions=self.captions,
            extended=self.extended,
            reconnections=self.reconnections,
            source=dict(self._source_thread.source.statistics()) if self._source_thread is not None else {},
            last_caption=None if last is None else last.as_json(),
            decode_skipped=self.skipped,
            samples_missed=self.reader_statistics.samples_missed,
            frame_conversion_errors=self.reader_statistics.frame_conversion_errors,
            files_dropped=self._filing.dropped if self._filing is not None else 0,
        )

    def newest_frame(self) -> Frame | None:
        """The newest decoded frame, for those who watch."""
        return self._ring.newest()

    def push_source(self) -> PushSource | None:
        """Where a publisher's frames go, if this stream waits for or has a publisher (`whip:`)."""
        source = self._source_thread.source if self._source_thread is not None else None
        return source if isinstance(source, PushSource) else None

    def on_outcome(self, outcome: Outcome) -> None:
        """What the engine said of one of this stream's samples."""
        sample = outcome.sample
        if self._closed or sample.submitted < self._created:
            return  # of an earlier stream of this name, or too late
        if not isinstance(outcome, Interim):
            self._answered = sample
            self._answered_event.set()
            self._on_model(f"captioning failed: {redact(outcome.reason)}" if isinstance(outcome, Failed) else "")
        match outcome:
            case Interim():
                latency = self._latency(sample, outcome.times)
                self._publish_caption(self.track.interim(_sample_time(sample), outcome.text, latency))
            case Captioned():
                self._on_captioned(outcome)
            case Unchanged():
                self.skipped += not outcome.decoded
                self._extend(sample)
            case Unconfirmed():
                pass  # the next sample brings a caption that begins here, or extends the last one over it
            case Failed():
                pass  # told above

    def _on_captioned(self, outcome: Captioned) -> None:
        sample, first = outcome.sample, outcome.first
        latency = self._latency(sample, outcome.times, first)
        caption = self.track.final(_sample_time(first or sample), outcome.text, outcome.logprob, latency)
        self.captions += 1
        self._publish_caption(caption)
        if first is not None:
            self._extend(sample)

    def _extend(self, sample: Sample) -> None:
        """The newest final is true of `sample` too."""
        extend = self.track.extend(_sample_time(sample))
        if extend is not None:
            self.extended += 1
            self._publish(extend)
            if self._filing is not None:
                self._filing.touch()

    async def _supervise(self) -> None:
        options = self._deps.options
        backoff = Backoff(options.retry_first, options.retry_most)
        connection_no = 0
        self._set_state(StreamState.CONNECTING)
        while True:
            began, frames = time.monotonic(), self.reader_statistics.frames
            end = await self._read(connection_no)
            connection_no += 1
            if isinstance(end, SourceEnded):
                await self._drain()
                self._set_state(StreamState.ENDED, str(end))
                return
            if isinstance(end, SourceRefused) and not end.retry:
                self._set_state(StreamState.FAILED, str(end))
                return
            if self.reader_statistics.frames > frames and time.monotonic() - began >= STABLE_AFTER_S:
                backoff.reset()
            self.reconnections += 1
            self._set_state(StreamState.RECONNECTING, str(end))
            if self.push_source() is None:  # a publisher comes to us: nobody is spared by a pause
                await asyncio.sleep(backoff.next())

    async def _read(self, connection_no: int) -> StreamcapError | None:
        """One opening of the source, from open to its end, which is returned."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[StreamcapError | None] = loop.create_future()

        def on_end(error: StreamcapError | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def soon(callback: Callable[[_T], None]) -> Callable[[_T], None]:
            def call(value: _T) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is gone: nobody is left to be told
                    loop.call_soon_threadsafe(callback, value)

            return call

        options = self._deps.options
        reader = self._source_thread = SourceThread(
            self.name,
            self._deps.open_source(self._secret_url),
            connection_no=connection_no,
            ring=self._ring,
            schedule=Schedule(self.every),
            timeline=self._timeline,
            convert=self._deps.convert,
            submit=self._submit,
            clip_length=self._deps.clip_length,
            clip_seconds=options.clip_seconds,
            statistics=self.reader_statistics,
            on_open=soon(self._on_open),
            on_first=soon(self._on_first),
            on_end=soon(on_end),
        )
        reader.start()
        try:
            while not ended.done():
                await asyncio.wait((ended,), timeout=STALL_CHECK_S)
                self._watch(reader)
            return ended.result()
        finally:
            if not ended.done():
                reader.stop()
                await asyncio.wait((ended,), timeout=READER_STOP_TIMEOUT_S)

    def _submit(self, sample: Sample) -> None:
        """On the reader's thread."""
        self._submitted = sample
        self._deps.submit(sample)

    async def _drain(self) -> None:
        """Until the newest sample, which none can replace any more, has been captioned."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while self._answered is not self._submitted:
                    self._answered_event.clear()
                    await self._answered_event.wait()

    def _watch(self, reader: SourceThread) -> None:
        """Tell live from stalled by the age of the newest frame."""
        if reader.last_frame_at is None:
            return
        age = time.monotonic() - reader.last_frame_at
        if age < self._deps.options.stall_after:
            if self.state is not StreamState.LIVE:
                self._set_state(StreamState.LIVE)
        elif self.state is StreamState.LIVE:
            self._set_state(StreamState.STALLED, f"no frame for {age:.1f} s")

    def _on_open(self, info: SourceInfo) -> None:
        self.info = info

    def _on_first(self, _frame: Frame) -> None:
        self._set_state(StreamState.LIVE)

    def _set_state(self, state: StreamState, reason: str = "") -> None:
        self._error_text = redact(reason)
        self._publish_status(state)

    def _publish_status(self, state: StreamState) -> None:
        """The state, with all that is wrong now: with the source, the model and the disk."""
        reason = "; ".join(filter(None, (self._error_text, self._model_problem, self._disk_problem)))
        if (state, reason) == (self.state, self.reason) and self._feed.status is not None:
            return
        self.state, self.reason = state, reason
        troubled = state in (StreamState.STALLED, StreamState.RECONNECTING, StreamState.FAILED)
        level = logging.WARNING if troubled else logging.INFO
        log.log(level, "stream %s is %s%s", self.name, state.value, f": {reason}" if reason else "")
        self._publish(Status(self.name, state, reason))

    def _on_disk(self, problem: str) -> None:
        self._disk_problem = problem
        self._publish_status(self.state)

    def _on_model(self, problem: str) -> None:
        if problem != self._model_problem:
            self._model_problem = problem
            self._publish_status(self.state)

    def _publish_caption(self, caption: Caption) -> None:
        age = caption.latency.total / 1000
        self._publish(caption, live=age <= self._deps.options.max_age)

    def _publish(self, payload: Payload, *, live: bool = True) -> None:
        if self._filing is not None:
            self._filing.publish(payload, live=live)
        else:
            self._release(payload, live)

    def _release(self, payload: Payload, live: bool) -> None:
        hub = self._deps.hub
        # Not so where a disk that hung held events up until the stream was removed: the name may be another's by now.
        if hub.feeds.get(self.name) is self._feed:
            hub.publish(payload, live=live)

    def _latency(self, sample: Sample, times: Times, first: Sample | None = None) -> Latency:
        """Of `sample`; the total from the arrival of `first`, if a second sample was waited for."""
        now = time.monotonic()
        return Latency(
            ingest=1000 * (sample.submitted - sample.arrived),
            queue=1000 * (times.taken - sample.submitted),
            encode=1000 * (times.encoded - times.taken),
            decode=1000 * (times.decoded - times.encoded),
            total=1000 * (now - (first or sample).arrived),
        )

    def _close_cue(self) -> None:
        extend = self.track.close(self._timeline.last)
        if extend is not None:
            self._publish(extend)
            if self._filing is not None:
                self._filing.touch()

    def _refill(self, load_history: SavedHistory) -> None:
        """Go on where an earlier run stopped: numbers, ids, cues and the timeline."""
        self._feed.refill(load_history.finals, load_history.next_seq)
        number = self._first_counters.caption
        if load_history.finals:
            final = load_history.finals[-1]
            _, _, filed = load_history.shown[-1].id.rpartition("-")
            # Each number shown since, and not filed, took an event at least.
            number = max(number, (int(filed) if filed.isdecimal() else 0) + load_history.next_seq - final.seq)
        self.track = CaptionTrack(
            self.name, every=self.every, window=self._deps.options.subtitle_window, next_number=number
        )
        for caption in load_history.shown:
            self.track.restore(caption)
        if load_history.shown:
            self._timeline = Timeline(begin=load_history.shown[-1].end)
            self._timeline.epoch = load_history.shown[-1].epoch
