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
from streamcap.captions.cue import on_screen
from streamcap.captions.event import Payload, Status, StreamState
from streamcap.captions.feed import Feed
from streamcap.captions.hub import Hub
from streamcap.captions.timeline import Timeline
from streamcap.captions.track import Moment, Track
from streamcap.engine.outcome import Captioned, Doubtful, Failed, Interim, Outcome, Times, Unchanged
from streamcap.errors import StreamcapError
from streamcap.media.frame import Frame, Sample
from streamcap.media.ring import FrameRing
from streamcap.media.schedule import Schedule
from streamcap.media.sources.contract import Source, SourceEnded, SourceInfo, SourceRefused
from streamcap.media.sources.webrtc import PushSource
from streamcap.redact import redact
from streamcap.service.backoff import Backoff
from streamcap.service.files import CaptionFiles, Past
from streamcap.service.filing import Filing, finished
from streamcap.service.reader import Convert, Reader, ReaderStatistics
from streamcap.service.settings import Settings
from streamcap.service.view import StreamView

log = logging.getLogger(__name__)
_T = TypeVar("_T")

WATCH_SECONDS = 0.25
# A connection that gave frames and lived so long was a good one: the next pause is short again.
GOOD_SECONDS = 10.0
# How long a removed stream's reader may take; after that its daemon thread is left to its own read timeout.
LEAVE_SECONDS = 1.5
# How long a source that has ended waits for the caption of its last sample.
LAST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stream needs of the house."""

    settings: Settings
    hub: Hub
    open_source: Callable[[str], Source]
    convert: Convert
    submit: Callable[[Sample], None]
    clip_length: int | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """The lowest sequence number and the lowest number of an id that no stream of this name has used in this run."""

    seq: int = 1
    caption: int = 1


def _ring(parts: Parts) -> FrameRing:
    """What a sample looks back at: a few frames for each of a clip model's, for any other model the newest alone."""
    seconds, clip_length = parts.settings.clip_seconds, parts.clip_length
    if clip_length is None:
        return FrameRing(seconds=seconds, frames=1)
    steps = 4 * clip_length
    spacing = seconds / steps
    # One spacing more, since frames do not fall on the window's edge; both ends count, and so does the newest.
    return FrameRing(seconds=seconds + spacing, frames=steps + 3, spacing=spacing)


def _moment(sample: Sample) -> Moment:
    return Moment(sample.epoch, sample.start, sample.captured_at, sample.captured_at_source)


class Stream:
    """All methods on the event loop. `run` is its one task; the set of streams owns it."""

    def __init__(self, name: str, url: str, every: float, parts: Parts, numbers: Numbers | None = None) -> None:
        self.name = name
        self.url = redact(url)
        self.every = every
        self.state = StreamState.CONNECTING
        self.reason = ""
        self.info: SourceInfo | None = None
        self.reader_statistics = ReaderStatistics()
        self.captions = 0
        self.extended = 0
        self.skipped = 0
        self.reconnections = 0
        self._secret_url = url
        self._parts = parts
        self._first = numbers or Numbers()
        self._created = time.monotonic()
        self._feed = Feed(name, keep=parts.settings.replay)
        self.track = Track(name, every=every, window=parts.settings.window)
        self._timeline = Timeline()
        self._ring = _ring(parts)
        self._reader: Reader | None = None
        self._files: CaptionFiles | None = None
        self._filing: Filing | None = None
        self._why = ""
        self._model_trouble = ""
        self._disk_trouble = ""
        self._over = False
        self._submitted: Sample | None = None
        self._answered: Sample | None = None
        self._heard = asyncio.Event()

    async def prepare(self) -> None:
        """Go on with the numbers of an earlier stream of this name, and take up what one filed.

        Raises OSError; InputError where the files are another's.
        """
        out = self._parts.settings.out
        if out is None:
            self._refill(Past([], [], self._first.seq))
        else:
            files = self._files = CaptionFiles(out, self.name)
            await asyncio.to_thread(files.claim)
            past = await asyncio.to_thread(files.past, self._parts.settings.window)
            past = replace(past, next_seq=max(past.next_seq, self._first.seq))
            await asyncio.to_thread(files.reserve, past.next_seq)
            self._refill(past)
            self._filing = Filing(
                files, lambda: on_screen(self.track.finals), lambda: self._feed.last_seq, self._release, self._on_disk
            )

    def leave(self) -> None:
        """Let go of its files: it never began, or is over. Idempotent."""
        if self._files is not None:
            self._files.leave()

    def numbers(self) -> Numbers:
        """Where another stream of this name may go on."""
        first = self._first
        return Numbers(max(first.seq, self._feed.last_seq + 1), max(first.caption, self.track.next_number))

    def enter(self) -> None:
        """Be there for viewers."""
        self._parts.hub.add(self._feed)

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
            self._over = True
            try:
                if self._filing is not None and filing is not None:
                    self._filing.close()
                    await finished(filing)
            finally:
                self.leave()

    def view(self) -> StreamView:
        """A snapshot."""
        info = self.info or SourceInfo(0, 0, 0.0, "", live=True)
        last = self.track.last
        return StreamView(
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
            source=dict(self._reader.source.statistics()) if self._reader is not None else {},
            last_caption=None if last is None else last.as_json(),
            decode_skipped=self.skipped,
            missed=self.reader_statistics.missed,
            convert_failed=self.reader_statistics.convert_failed,
            files_dropped=self._filing.dropped if self._filing is not None else 0,
        )

    def newest_frame(self) -> Frame | None:
        """The newest decoded frame, for those who watch."""
        return self._ring.newest()

    def push_source(self) -> PushSource | None:
        """Where a publisher's frames go, if this stream waits for or has a publisher (`whip:`)."""
        source = self._reader.source if self._reader is not None else None
        return source if isinstance(source, PushSource) else None

    def on_outcome(self, outcome: Outcome) -> None:
        """What the engine said of one of this stream's samples."""
        sample = outcome.sample
        if self._over or sample.submitted < self._created:
            return  # of an earlier stream of this name, or too late
        if not isinstance(outcome, Interim):
            self._answered = sample
            self._heard.set()
            self._on_model(f"captioning failed: {redact(outcome.reason)}" if isinstance(outcome, Failed) else "")
        match outcome:
            case Interim():
                latency = self._latency(sample, outcome.times)
                self._publish_caption(self.track.interim(_moment(sample), outcome.text, latency))
            case Captioned():
                self._on_captioned(outcome)
            case Unchanged():
                self.skipped += not outcome.decoded
                self._extend(sample)
            case Doubtful():
                pass  # the next sample brings a caption that begins here, or extends the last one over it
            case Failed():
                pass  # told above

    def _on_captioned(self, outcome: Captioned) -> None:
        sample, first = outcome.sample, outcome.first
        latency = self._latency(sample, outcome.times, first)
        caption = self.track.final(_moment(first or sample), outcome.text, outcome.logprob, latency)
        self.captions += 1
        self._publish_caption(caption)
        if first is not None:
            self._extend(sample)

    def _extend(self, sample: Sample) -> None:
        """The newest final is true of `sample` too."""
        extend = self.track.extend(_moment(sample))
        if extend is not None:
            self.extended += 1
            self._publish(extend)
            if self._filing is not None:
                self._filing.touch()

    async def _supervise(self) -> None:
        settings = self._parts.settings
        backoff = Backoff(settings.retry_first, settings.retry_most)
        opening = 0
        self._set_state(StreamState.CONNECTING)
        while True:
            began, frames = time.monotonic(), self.reader_statistics.frames
            end = await self._read(opening)
            opening += 1
            if isinstance(end, SourceEnded):
                await self._hear_the_last()
                self._set_state(StreamState.ENDED, str(end))
                return
            if isinstance(end, SourceRefused) and not end.retry:
                self._set_state(StreamState.FAILED, str(end))
                return
            if self.reader_statistics.frames > frames and time.monotonic() - began >= GOOD_SECONDS:
                backoff.reset()
            self.reconnections += 1
            self._set_state(StreamState.RECONNECTING, str(end))
            if self.push_source() is None:  # a publisher comes to us: nobody is spared by a pause
                await asyncio.sleep(backoff.next())

    async def _read(self, opening: int) -> StreamcapError | None:
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

        settings = self._parts.settings
        reader = self._reader = Reader(
            self.name,
            self._parts.open_source(self._secret_url),
            opening=opening,
            ring=self._ring,
            schedule=Schedule(self.every),
            timeline=self._timeline,
            convert=self._parts.convert,
            submit=self._submit,
            clip_length=self._parts.clip_length,
            clip_seconds=settings.clip_seconds,
            statistics=self.reader_statistics,
            on_open=soon(self._on_open),
            on_first=soon(self._on_first),
            on_end=soon(on_end),
        )
        reader.start()
        try:
            while not ended.done():
                await asyncio.wait((ended,), timeout=WATCH_SECONDS)
                self._watch(reader)
            return ended.result()
        finally:
            if not ended.done():
                reader.stop()
                await asyncio.wait((ended,), timeout=LEAVE_SECONDS)

    def _submit(self, sample: Sample) -> None:
        """On the reader's thread."""
        self._submitted = sample
        self._parts.submit(sample)

    async def _hear_the_last(self) -> None:
        """Until the newest sample, which none can replace any more, has been captioned."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                while self._answered is not self._submitted:
                    self._heard.clear()
                    await self._heard.wait()

    def _watch(self, reader: Reader) -> None:
        """Tell live from stalled by the age of the newest frame."""
        if reader.last_frame_at is None:
            return
        age = time.monotonic() - reader.last_frame_at
        if age < self._parts.settings.stall_after:
            if self.state is not StreamState.LIVE:
                self._set_state(StreamState.LIVE)
        elif self.state is StreamState.LIVE:
            self._set_state(StreamState.STALLED, f"no frame for {age:.1f} s")

    def _on_open(self, info: SourceInfo) -> None:
        self.info = info

    def _on_first(self, _frame: Frame) -> None:
        self._set_state(StreamState.LIVE)

    def _set_state(self, state: StreamState, reason: str = "") -> None:
        self._why = redact(reason)
        self._tell(state)

    def _tell(self, state: StreamState) -> None:
        """The state, with all that is wrong now: with the source, the model and the disk."""
        reason = "; ".join(filter(None, (self._why, self._model_trouble, self._disk_trouble)))
        if (state, reason) == (self.state, self.reason) and self._feed.status is not None:
            return
        self.state, self.reason = state, reason
        troubled = state in (StreamState.STALLED, StreamState.RECONNECTING, StreamState.FAILED)
        level = logging.WARNING if troubled else logging.INFO
        log.log(level, "stream %s is %s%s", self.name, state.value, f": {reason}" if reason else "")
        self._publish(Status(self.name, state, reason))

    def _on_disk(self, trouble: str) -> None:
        self._disk_trouble = trouble
        self._tell(self.state)

    def _on_model(self, trouble: str) -> None:
        if trouble != self._model_trouble:
            self._model_trouble = trouble
            self._tell(self.state)

    def _publish_caption(self, caption: Caption) -> None:
        age = caption.latency.total / 1000
        self._publish(caption, live=age <= self._parts.settings.max_age)

    def _publish(self, payload: Payload, *, live: bool = True) -> None:
        if self._filing is not None:
            self._filing.publish(payload, live=live)
        else:
            self._release(payload, live)

    def _release(self, payload: Payload, live: bool) -> None:
        hub = self._parts.hub
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

    def _refill(self, past: Past) -> None:
        """Go on where an earlier run stopped: numbers, ids, cues and the timeline."""
        self._feed.refill(past.finals, past.next_seq)
        number = self._first.caption
        if past.finals:
            final = past.finals[-1]
            _, _, filed = past.shown[-1].id.rpartition("-")
            # Each number shown since, and not filed, took an event at least.
            number = max(number, (int(filed) if filed.isdecimal() else 0) + past.next_seq - final.seq)
        self.track = Track(self.name, every=self.every, window=self._parts.settings.window, next_number=number)
        for caption in past.shown:
            self.track.restore(caption)
        if past.shown:
            self._timeline = Timeline(begin=past.shown[-1].end)
            self._timeline.epoch = past.shown[-1].epoch
