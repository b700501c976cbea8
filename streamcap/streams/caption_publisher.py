"""`CaptionPublisher`: what the engine and the source say of a stream becomes events, in its file first, then seen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.cue import merge_cues
from streamcap.captions.event import Extend, Payload, Status, StreamState, encode
from streamcap.captions.event_log import EventLog
from streamcap.captions.track import CaptionTrack, SampleTime
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Times, Unchanged, Unconfirmed
from streamcap.media.frame import Sample
from streamcap.redact import redact
from streamcap.streams.caption_file_writer import CaptionFileWriter
from streamcap.streams.caption_files import SavedHistory
from streamcap.streams.counters import Counters
from streamcap.streams.event_outbox import EventOutbox, Outgoing
from streamcap.streams.stream_deps import StreamDeps

log = logging.getLogger(__name__)

# The subtitle files are rewritten whole; once a second is as live as a player reloads them. A long window on a busy
# machine, or a slow disk, makes it rarer: so many times what one rewrite takes, within bounds.
REWRITE_INTERVAL_S = 1.0
REWRITE_SHARE = 20
MAX_REWRITE_SECONDS = 10.0
RETRY_SECONDS = 2.0
# A disk that has not answered for so long hangs: viewers are told, and the numbers of what is being written are a gap.
HANG_SECONDS = 3.0
POLL_SECONDS = 0.1
# What a disk that hangs gets at the end of a stream.
CLOSE_SECONDS = 1.5
MAX_BATCH = 64


class CaptionPublisher:
    """One stream's captions and states on their way: track → outbox → file → hub.

    With files, a final is in `NAME.jsonl` before anyone sees it, and what follows it waits its turn. While the disk
    refuses or hangs, finals wait in the outbox, interims are dropped, and a status tells why. Finals that the outbox
    cannot hold, or that were being written when the disk hung, are lost to viewers: a `gap` has their numbers, and
    they are counted. Nothing is published beyond what is reserved on the disk, so that no later run repeats it.

    All methods on the event loop; `run` is the one task.
    """

    def __init__(self, name: str, every: float, deps: StreamDeps, first: Counters | None = None) -> None:
        self.name = name
        self.begin = first or Counters()
        """What this stream goes on with; after `open`."""
        self.track = CaptionTrack(name, every=every, window=deps.options.subtitle_window)
        self.published = self.track
        """What viewers and subtitle files may show: with files, the finals that are in `NAME.jsonl`. After `open`."""
        self.state = StreamState.CONNECTING
        self.reason = ""
        self.captions = 0
        self.extended = 0
        self.skipped = 0
        self._every = every
        self._options = deps.options
        self._hub = deps.hub
        self._feed = EventLog(name, keep=deps.options.replay_events)
        self._writer = None if deps.options.out is None else CaptionFileWriter(deps.options.out, name)
        self._outbox = EventOutbox()
        self._in_flight: list[Outgoing] = []
        self._numbered = False  # the events in flight are being written under the next numbers
        self._shown = self.begin
        self._open_end = 0.0  # of an interim that no final has followed
        self._lost_finals = 0  # those that the outbox dropped aside
        self._told_drops = 0
        self._source_reason = ""
        self._model_reason = ""
        self._disk_reason = ""
        self._cues_reason = ""
        self._stale_cues = False
        self._rewrite_at = 0.0
        self._wake = asyncio.Event()
        self._closing_since: float | None = None

    # -- begin and end

    async def open(self) -> None:
        """Go on with what an earlier stream of this name, or its files, left. Raises OSError, FilesInUseError."""
        window = self._options.subtitle_window
        load_history = (
            SavedHistory([], [], self.begin) if self._writer is None else await self._writer.open(window, self.begin)
        )
        self.begin = self.begin.union(load_history.counters)
        self._feed.refill(load_history.finals, self.begin.seq)
        self.track, self.published = (
            CaptionTrack(self.name, every=self._every, window=window, next_number=self.begin.caption) for _ in range(2)
        )
        for caption in load_history.shown:
            self.track.restore(caption)
            self.published.restore(caption)
        self._shown = replace(self.begin, seq=self._feed.last_seq + 1)

    def register(self) -> None:
        """Be there for viewers."""
        self._hub.add(self._feed)

    def fail(self, reason: str) -> None:
        """The stream failed before its numbers were known: the status takes none."""
        self.state, self.reason = StreamState.FAILED, redact(reason)
        log.error("stream %s is failed: %s", self.name, self.reason)
        self._feed.set_status(Status(self.name, self.state, self.reason))
        self._hub.add(self._feed)

    def counters(self) -> Counters:
        """What another stream of this name goes on with."""
        number = max(self._shown.caption, self.track.next_number)
        end = max(self.begin.time, self.track.end, self._open_end)
        return Counters(self._shown.seq, number, self._shown.epoch, end)

    @property
    def dropped_finals(self) -> int:
        """Finals that no viewer got: the disk refused or hung for too long."""
        return self._outbox.dropped_finals + self._lost_finals

    async def run(self) -> None:
        """Keep the files up to date until `close`. Do not cancel it: a write on its thread cannot be called back."""
        if self._writer is None:
            return
        while self._closing_since is None:
            try:
                await self._turn(self._writer)
            except Exception:  # a fault of ours: the captions wait in the outbox until it works again
                log.exception("stream %s: its files were not written", self.name)
                await self._pause(RETRY_SECONDS)
        await self._end(self._writer)

    def close(self) -> None:
        """Let `run` write what waits, and return."""
        if self._closing_since is None:
            self._closing_since = time.monotonic()
        self._wake.set()

    async def release_files(self) -> None:
        """Let another have the files. Idempotent."""
        if self._writer is not None:
            await self._writer.close()

    # -- what is published

    def on_outcome(self, outcome: Outcome) -> None:
        """What the engine made of a sample."""
        sample = outcome.sample
        if not isinstance(outcome, Interim):
            self._set_model(f"captioning failed: {redact(outcome.reason)}" if isinstance(outcome, Failed) else "")
        match outcome:
            case Interim():
                latency = _latency(sample, outcome.times)
                self._publish_caption(self.track.interim(_sample_time(sample), outcome.text, latency))
            case Captioned():
                first = outcome.first
                latency = _latency(sample, outcome.times, first)
                caption = self.track.final(_sample_time(first or sample), outcome.text, outcome.logprob, latency)
                self.captions += 1
                self._publish_caption(caption)
                if first is not None:
                    self._extend(sample)
            case Unchanged():
                self.skipped += not outcome.decoded
                self._extend(sample)
            case Unconfirmed() | Failed():
                pass  # the next sample decides; told above

    def set_state(self, state: StreamState, reason: str = "") -> None:
        """The source's state, and why."""
        self._source_reason = redact(reason)
        self._publish_status(state)

    def close_cue(self, now: float) -> None:
        """The stream ends at output time `now`, and with it the caption on screen."""
        extend = self.track.close(now)
        if extend is not None:
            self.publish(extend)
            self._touch_cues()

    def publish(self, payload: Payload, *, live: bool = True) -> None:
        """In order: a final once it is in the file, all else at once unless a final is before it."""
        event = Outgoing(payload, live)
        if self._goes_at_once(event):
            self._release(event)
        else:
            self._outbox.put(event)
        if self._writer is not None and (self._outbox or self._writer.is_low(self._shown)):
            self._wake.set()

    def _publish_caption(self, caption: Caption) -> None:
        self.publish(caption, live=caption.latency.total / 1000 <= self._options.max_age)
        if caption.is_final:
            self._touch_cues()

    def _extend(self, sample: Sample) -> None:
        """The newest final is true of `sample` too."""
        extend = self.track.extend(_sample_time(sample))
        if extend is not None:
            self.extended += 1
            self.publish(extend)
            self._touch_cues()

    def _set_model(self, reason: str) -> None:
        if reason != self._model_reason:
            self._model_reason = reason
            self._publish_status(self.state)

    def _set_disk(self, reason: str) -> None:
        if reason != self._disk_reason:
            self._disk_reason = reason
            self._outbox.blocked = bool(reason)
            self._publish_status(self.state)

    def _publish_status(self, state: StreamState) -> None:
        """The state, with all that is wrong now: with the source, the model and the disk."""
        reason = "; ".join(filter(None, (self._source_reason, self._model_reason, self._disk_reason)))
        if (state, reason) == (self.state, self.reason) and self._feed.status is not None:
            return
        self.state, self.reason = state, reason
        failing = state in (StreamState.STALLED, StreamState.RECONNECTING, StreamState.FAILED)
        level = logging.WARNING if failing or self._disk_reason else logging.INFO
        log.log(level, "stream %s is %s%s", self.name, state.value, f": {reason}" if reason else "")
        self.publish(Status(self.name, state, reason))

    def _goes_at_once(self, event: Outgoing) -> bool:
        if self._writer is None:
            return True
        if self._numbered or not self._writer.reserved.covers(self._shown.after(event.payload)):
            return False
        if isinstance(event.payload, Status) and self._disk_reason:
            return True  # that captions wait is told at once
        return not event.is_final and not self._outbox and not self._in_flight

    def _release(self, event: Outgoing) -> None:
        payload = event.payload
        self.published.apply(payload)
        # Not so where a disk that hung held events up until the stream was removed: the name may be another's by now.
        if self._hub.feeds.get(self.name) is not self._feed:
            return
        self._shown = self._shown.after(payload)
        if event.is_interim and isinstance(payload, Caption):
            self._open_end = payload.end
        elif isinstance(payload, Caption | Extend):
            self._open_end = 0.0
        self._hub.publish(payload, live=event.live)

    # -- the files

    def _touch_cues(self) -> None:
        self._stale_cues = True
        self._wake.set()

    async def _turn(self, writer: CaptionFileWriter) -> None:
        now = asyncio.get_running_loop().time()
        if not self._outbox and not writer.is_low(self._shown):
            await self._wait(max(0.0, self._rewrite_at - now) if self._stale_cues else None)
        self._wake.clear()
        reason = await self._send(writer)
        if not reason and self._stale_cues and asyncio.get_running_loop().time() >= self._rewrite_at:
            self._cues_reason = await self._rewrite_cues(writer)
        self._set_disk(_held(reason) if reason else self._cues_reason)
        if reason:
            await self._pause(RETRY_SECONDS)

    async def _wait(self, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def _pause(self, seconds: float) -> None:
        """Unless it is closed."""
        end = time.monotonic() + seconds
        while self._closing_since is None and (left := end - time.monotonic()) > 0:
            self._wake.clear()
            await self._wait(left)

    async def _send(self, writer: CaptionFileWriter) -> str:
        """File and publish what waits; the reason where the disk refuses."""
        try:
            while self._outbox or writer.is_low(self._shown):
                self._in_flight = self._outbox.take(MAX_BATCH)
                await self._send_batch(writer)
        except OSError as error:
            return f"cannot write {error.filename or writer.path}: {error.strerror or error}"
        finally:
            self._outbox.put_back(self._in_flight)
            self._in_flight = []
        return ""

    async def _send_batch(self, writer: CaptionFileWriter) -> None:
        while writer.is_low(needed := self._needed()):
            await self._patiently(writer, writer.reserve_seq(needed))
        begin = self._shown.seq + self._untold_drops
        finals = [encode(seq, event.payload).text for seq, event in enumerate(self._in_flight, begin) if event.is_final]
        if finals:
            self._numbered = True
            try:
                hung = await self._patiently(writer, writer.append(finals))
            finally:
                self._numbered = False
            if hung:  # viewers have had a gap in their place; the files show them
                self._lost_finals += len(finals)
                for event in self._in_flight:
                    self.published.apply(event.payload)
                self._in_flight = []
                return
        self._skip(self._untold_drops)
        while self._in_flight:
            self._release(self._in_flight.pop(0))

    @property
    def _untold_drops(self) -> int:
        return self._outbox.dropped_finals - self._told_drops

    def _needed(self) -> Counters:
        """Once all that is in flight is published."""
        needed = replace(self._shown, seq=self._shown.seq + self._untold_drops)
        for event in self._in_flight:
            needed = needed.after(event.payload)
        return needed

    def _skip(self, count: int) -> None:
        """The next `count` numbers are a gap. What the outbox dropped is among them."""
        if count and self._hub.feeds.get(self.name) is self._feed:
            self._told_drops = self._outbox.dropped_finals
            self._hub.skip(self.name, count)
            self._shown = replace(self._shown, seq=self._shown.seq + count)

    async def _patiently(self, writer: CaptionFileWriter, call: Coroutine[None, None, None]) -> bool:
        """Wait for `call` on the disk; whether it hung, so that a gap took the numbers of what was written.

        Raises OSError; TimeoutError where it hangs at the end of the stream.
        """
        task = asyncio.ensure_future(call)
        began, hung = time.monotonic(), False
        await asyncio.wait((task,), timeout=POLL_SECONDS)
        while not task.done():
            now = time.monotonic()
            over = self._closing_since is not None and now >= self._closing_since + CLOSE_SECONDS
            if not hung and (over or now >= began + HANG_SECONDS):
                hung = True
                self._hang(writer)
            if over:
                task.cancel()  # its thread goes on alone
                raise TimeoutError("the disk does not answer")
            await asyncio.wait((task,), timeout=POLL_SECONDS)
        task.result()
        return hung

    def _hang(self, writer: CaptionFileWriter) -> None:
        if self._numbered:
            self._numbered = False
            self._skip(len(self._in_flight) + self._untold_drops)
        self._set_disk(_held(f"cannot write {writer.path}: the disk does not answer"))

    async def _rewrite_cues(self, writer: CaptionFileWriter) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._stale_cues = False
        try:
            await self._patiently(writer, writer.write_cues(merge_cues(self.published.finals)))
        except OSError as error:
            self._stale_cues = True
            self._rewrite_at = loop.time() + RETRY_SECONDS
            return f"cannot write {error.filename or writer.path}: {error.strerror or error}"
        self._rewrite_at = began + rewrite_pause(loop.time() - began)
        return ""

    async def _end(self, writer: CaptionFileWriter) -> None:
        reason = await self._send(writer)
        left = self._outbox.finals
        if reason or left:
            self._lost_finals += left
            log.error("stream %s: %s; %d finals are lost", self.name, reason, self.dropped_finals)
            count = left + self._untold_drops
            if writer.reserved.covers(replace(self._shown, seq=self._shown.seq + count)):
                self._skip(count)
            return
        if not await self._rewrite_cues(writer):
            with contextlib.suppress(OSError):  # then the next run leaves out what is reserved
                await self._patiently(writer, writer.release_unused(self.counters()))


def rewrite_pause(cost: float) -> float:
    """Seconds from the beginning of a rewrite of the subtitle files, which took `cost` seconds, to that of the next."""
    return max(REWRITE_INTERVAL_S, min(REWRITE_SHARE * cost, MAX_REWRITE_SECONDS))


async def wait_through_cancel(task: asyncio.Task[None]) -> None:
    """Until `task` is done, through cancellations of the caller's own, which then take effect."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _held(reason: str) -> str:
    return f"{reason}; captions are held back until it can"


def _sample_time(sample: Sample) -> SampleTime:
    return SampleTime(sample.epoch, sample.start, sample.captured_at, sample.captured_at_source)


def _latency(sample: Sample, times: Times, first: Sample | None = None) -> Latency:
    """Of `sample`; the total from the arrival of `first`, if a second sample was waited for."""
    return Latency(
        ingest=1000 * (sample.submitted - sample.arrived),
        queue=1000 * (times.taken - sample.submitted),
        encode=1000 * (times.encoded - times.taken),
        decode=1000 * (times.decoded - times.encoded),
        total=1000 * (time.monotonic() - (first or sample).arrived),
    )
