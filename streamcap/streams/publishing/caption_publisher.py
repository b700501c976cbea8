"""`CaptionPublisher`: turns outcomes and source states into events, and publishes them once they are in the file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace

from streamcap.captions.caption import Caption
from streamcap.captions.cue import merge_cues
from streamcap.captions.event import Extend, Payload, Status, StreamState, encode
from streamcap.captions.event_log import EventLog
from streamcap.captions.track import CaptionTrack
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Unchanged, Unconfirmed
from streamcap.media.frame import Sample
from streamcap.redact import redact
from streamcap.streams.counters import Counters
from streamcap.streams.publishing.sample_times import latency_of, sample_time
from streamcap.streams.publishing.stream_status import StreamStatus
from streamcap.streams.settings import StreamSettings
from streamcap.streams.storage.caption_files import SavedHistory
from streamcap.streams.storage.caption_store import CaptionStore
from streamcap.streams.storage.event_outbox import EventOutbox, Outgoing
from streamcap.streams.stream_deps import StreamDeps

log = logging.getLogger(__name__)

# The subtitle files are rewritten completely, once a second at most: players do not reload them more often. If one
# rewrite takes long, the interval is REWRITE_SHARE times that, at most MAX_REWRITE_SECONDS.
REWRITE_INTERVAL_S = 1.0
REWRITE_SHARE = 20
MAX_REWRITE_SECONDS = 10.0
RETRY_SECONDS = 2.0
POLL_SECONDS = 0.1
# How long the end of a stream waits for a disk that hangs.
CLOSE_SECONDS = 1.5
MAX_BATCH = 64


class CaptionPublisher:
    """Publishes one stream's captions and states: track → outbox → file → hub.

    With files, a final is in `NAME.jsonl` before any viewer receives it; the events after it wait. While the disk
    fails or hangs, finals wait in the outbox, interims are dropped, and a status gives the reason. Finals that do not
    fit the outbox, or that were being written when the disk hung, are lost to viewers: a `gap` covers their numbers,
    and they are counted. Only numbers reserved on the disk are published, so that no later run repeats them.

    All methods run on the event loop; `run` is the one task.
    """

    def __init__(self, name: str, settings: StreamSettings, deps: StreamDeps, first: Counters | None = None) -> None:
        self.name = name
        self.settings = settings
        self._deps = deps
        self.begin = first or Counters()
        """Where this stream starts. After `open`."""
        self._every = deps.options.every if settings.every is None else settings.every
        self.track = CaptionTrack(name, every=self._every, window=deps.options.subtitle_window)
        self.published = self.track
        """The captions that viewers and subtitle files may show: with files, only finals in `NAME.jsonl`."""
        self._status = StreamStatus(name)
        self.captions = 0
        self.extended = 0
        self.skipped = 0
        self.held_back = 0
        """Captions that were not published, because the model was not sure enough."""
        self._holds_back = False  # the image has changed, but what it shows now is held back
        self._interims_allowed = self.min_confidence == 0  # until a caption shows that the model gives no confidence
        self._hub = deps.hub
        self._feed = EventLog(name, keep=deps.options.replay_events)
        self._writer = deps.open_store(name)
        self._outbox = EventOutbox(coalesce=self._writer is not None and self._writer.extend_delay > 0)
        self._in_flight: list[Outgoing] = []
        self._numbered = False  # the events in flight are being written under the next numbers
        self._shown = self.begin
        self._open_end = 0.0  # end of an interim without a final yet
        self._lost_finals = 0  # besides those that the outbox dropped
        self._reported_drops = 0
        self._cues_reason = ""
        self._stale_cues = False
        self._rewrite_at = 0.0
        self._extend_at = 0.0
        self._wake = asyncio.Event()
        self._closing_since: float | None = None

    # -- begin and end

    async def open(self) -> None:
        """Continue an earlier stream of this name, or its files. Raises OSError, FilesLockedError."""
        window = self._deps.options.subtitle_window
        history = (
            SavedHistory([], [], self.begin) if self._writer is None else await self._writer.open(window, self.begin)
        )
        self.begin = self.begin.union(history.counters)
        self._feed.refill(history.finals, self.begin.seq)
        self.track, self.published = (
            CaptionTrack(self.name, every=self._every, window=window, next_number=self.begin.caption) for _ in range(2)
        )
        for caption in history.shown:
            self.track.restore(caption)
            self.published.restore(caption)
        self._shown = replace(self.begin, seq=self._feed.last_seq + 1)

    def change(self, settings: StreamSettings, every: float) -> None:
        """Use other settings, and `every` seconds as the length of a caption, from the next outcome on."""
        self.settings = settings
        self.track.every = self.published.every = self._every = every
        self._interims_allowed = self.min_confidence == 0

    def register(self) -> None:
        """Make the stream visible to viewers."""
        self._hub.add(self._feed)

    def fail(self, reason: str) -> None:
        """The stream failed before its numbers were known: the status takes none."""
        self._status.source = redact(reason)
        self._status.update(StreamState.FAILED)
        log.error("stream %s is failed: %s", self.name, self.reason, extra={"stream": self.name})
        self._feed.set_status(Status(self.name, self.state, self.reason))
        self._hub.add(self._feed)

    def counters(self) -> Counters:
        """Where the next stream of this name starts."""
        number = max(self._shown.caption, self.track.next_number)
        end = max(self.begin.time, self.track.end, self._open_end)
        return Counters(self._shown.seq, number, self._shown.epoch, end)

    @property
    def state(self) -> StreamState:
        return self._status.state

    @property
    def reason(self) -> str:
        """All present reasons, as in the status event."""
        return self._status.reason

    @property
    def min_confidence(self) -> float:
        """Captions of a lower confidence are held back."""
        own = self.settings.min_confidence
        return self._deps.options.min_confidence if own is None else own

    @property
    def dropped_finals(self) -> int:
        """Finals that no viewer received, because the disk failed or hung for too long."""
        return self._outbox.dropped_finals + self._lost_finals

    @property
    def waiting_finals(self) -> int:
        """Finals that no viewer has received, since they are not stored yet."""
        return self._outbox.finals + sum(event.is_final for event in self._in_flight)

    async def run(self) -> None:
        """Keep the files up to date until `close`. Do not cancel it: a write on a thread cannot be cancelled."""
        if self._writer is None:
            return
        while self._closing_since is None:
            try:
                await self._write_once(self._writer)
            except Exception:  # a bug: the captions wait in the outbox for the next attempt
                log.exception("stream %s: writing the files failed", self.name, extra={"stream": self.name})
                await self._pause(RETRY_SECONDS)
        await self._end(self._writer)

    def close(self) -> None:
        """Tell `run` to write the waiting events and return."""
        if self._closing_since is None:
            self._closing_since = time.monotonic()
        self._wake.set()

    def confirm(self) -> None:
        """Let the store find out whether this is still the stream's writer."""
        self._wake.set()

    async def release_files(self) -> None:
        """Release the files. Idempotent."""
        if self._writer is not None:
            await self._writer.close()

    # -- what is published

    def on_outcome(self, outcome: Outcome) -> None:
        """Handle the engine's outcome of one sample."""
        sample = outcome.sample
        if not isinstance(outcome, Interim):
            reason = f"captioning failed: {outcome.reason}" if isinstance(outcome, Failed) else sample.notice
            self._set_model(redact(reason))
        match outcome:
            case Interim() if not (self._interims_allowed or sample.images):
                pass  # its confidence is not known yet; remote models give none
            case Interim():
                latency = latency_of(sample, outcome.times)
                caption = self.track.interim(sample_time(sample), outcome.text, latency)
                self._publish_caption(caption, answer_ms=latency.decode if sample.images else 0.0)
            case Captioned(confidence=confidence) if confidence is not None and confidence < self.min_confidence:
                self._hold_back()
            case Captioned():
                self._holds_back = False
                self._interims_allowed = self.min_confidence == 0 or outcome.confidence is None
                first = outcome.first
                latency = latency_of(sample, outcome.times, first)
                caption = self.track.final(
                    sample_time(first or sample), outcome.text, outcome.logprob, latency, outcome.confidence
                )
                self.captions += 1
                self._publish_caption(caption, answer_ms=caption.latency.decode if sample.images else 0.0)
                if first is not None:
                    self._extend(sample)
            case Unchanged():
                self.skipped += not outcome.decoded
                self._end_interim(repeat=not self._holds_back)
                # The newest final is of the image before the one that was held back.
                if not self._holds_back:
                    self._extend(sample)
            case Unconfirmed() | Failed():
                pass  # the next sample decides; the status is set above

    def set_state(self, state: StreamState, reason: str = "") -> None:
        """Set the source's state and its reason."""
        self._status.source = redact(reason)
        self._publish_status(state)

    def close_cue(self, now: float) -> None:
        """The stream ends at output time `now`: end the current caption there."""
        extend = self.track.close(now)
        if extend is not None:
            self.publish(extend)
            self._touch_cues()
        self._end_interim(repeat=False)

    def publish(self, payload: Payload, *, live: bool = True) -> None:
        """Publish in order: a final once it is in the file, other events at once unless a final waits before them."""
        event = Outgoing(payload, live)
        if self._can_publish_now(event):
            self._release(event)
        else:
            self._outbox.put(event)
        if self._writer is not None and (self._outbox or self._writer.is_low(self._shown)):
            self._wake.set()

    def _publish_caption(self, caption: Caption, answer_ms: float = 0.0) -> None:
        """`answer_ms`: milliseconds that do not count as age: those of a remote model, which may answer slowly."""
        age = caption.latency.total - answer_ms
        self.publish(caption, live=age / 1000 <= self._deps.options.max_age)
        if caption.is_final:
            self._touch_cues()

    def _hold_back(self) -> None:
        """The image has changed and the model is not sure what it shows: end the open interim, publish no caption."""
        self.held_back += 1
        self._holds_back, self._interims_allowed = True, False
        self._end_interim(repeat=False)
        self._feed.clear_current()

    def _end_interim(self, *, repeat: bool) -> None:
        """End the interim of a request that failed, if one is open: no caption of its image follows."""
        final = self.track.end_interim(repeat=repeat)
        if final is not None:
            self.publish(final)
            self._touch_cues()

    def _extend(self, sample: Sample) -> None:
        """Extend the newest final to `sample`."""
        extend = self.track.extend(sample_time(sample))
        if extend is not None:
            self.extended += 1
            self.publish(extend)
            self._touch_cues()

    def _set_model(self, reason: str) -> None:
        if reason != self._status.model:
            self._status.model = reason
            self._publish_status(self.state)

    def set_load(self, reason: str) -> None:
        """Say that captions come less often; empty: as often as configured."""
        if reason != self._status.load:
            self._status.load = reason
            if self._feed.status is not None:
                self._publish_status(self.state)

    def _set_disk(self, reason: str) -> None:
        if reason != self._status.disk:
            self._status.disk = reason
            self._outbox.blocked = bool(reason)
            self._publish_status(self.state)

    def _publish_status(self, state: StreamState) -> None:
        """Publish the state and all present reasons: of the source, the model, the disk and the load."""
        if self._status.update(state) or self._feed.status is None:
            self._status.log()
            self.publish(Status(self.name, state, self.reason))

    def _can_publish_now(self, event: Outgoing) -> bool:
        if self._writer is None:
            return True
        if self._numbered or not self._writer.reserved.covers(self._shown.after(event.payload)):
            return False
        if isinstance(event.payload, Status) and self._status.disk and not self._writer.keeps(event):
            return True  # viewers must learn at once that captions wait
        return not self._writer.keeps(event) and not self._outbox and not self._in_flight

    def _release(self, event: Outgoing) -> None:
        payload = event.payload
        self.published.apply(payload)
        # Without a viewer too: what is in the file must not be numbered again.
        self._shown = self._shown.after(payload)
        # A disk that hung may have delayed events until the stream was removed: another stream may have the name now.
        if self._hub.feeds.get(self.name) is not self._feed:
            return
        if event.is_interim and isinstance(payload, Caption):
            self._open_end = payload.end
        elif isinstance(payload, Caption | Extend):
            self._open_end = 0.0
        self._hub.publish(payload, live=event.live)

    # -- the files

    def _touch_cues(self) -> None:
        self._stale_cues = True
        self._wake.set()

    async def _write_once(self, writer: CaptionStore) -> None:
        now = asyncio.get_running_loop().time()
        if not writer.is_low(self._shown) and (not self._outbox or self._holds_extend()):
            ends = [
                at for at, given in ((self._rewrite_at, self._stale_cues), (self._extend_at, self._outbox)) if given
            ]
            await self._wait(max(0.0, min(ends) - now) if ends else None)
        self._wake.clear()
        holds = self._holds_extend() and not writer.is_low(self._shown)
        reason = "" if holds else await self._send(writer)
        if not reason and self._stale_cues and asyncio.get_running_loop().time() >= self._rewrite_at:
            self._cues_reason = await self._rewrite_cues(writer)
        self._set_disk(_held_reason(reason) if reason else self._cues_reason)
        if reason:
            await self._pause(RETRY_SECONDS)

    def _holds_extend(self) -> bool:
        """Whether only an `extend` waits, which a later one may replace before it is written."""
        return self._outbox.only_extends and asyncio.get_running_loop().time() < self._extend_at

    async def _wait(self, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not after `close`."""
        end = time.monotonic() + seconds
        while self._closing_since is None and (left := end - time.monotonic()) > 0:
            self._wake.clear()
            await self._wait(left)

    async def _send(self, writer: CaptionStore) -> str:
        """Write and publish the waiting events. Returns the reason if the disk fails."""
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

    async def _send_batch(self, writer: CaptionStore) -> None:
        while writer.is_low(needed := self._needed(self._unreported_drops)):
            await self._wait_for_disk(writer, writer.reserve_seq(needed))
        drops = self._unreported_drops  # more may be dropped during the write: they get later numbers
        begin = self._shown.seq + drops
        events = [encode(seq, event.payload) for seq, event in enumerate(self._in_flight, begin)]
        kept = [event for event in events if writer.keeps(event)]
        if kept:
            self._numbered = True
            try:
                hung = await self._wait_for_disk(writer, writer.append(kept, self._needed(drops)))
            finally:
                self._numbered = False
            self._extend_at = asyncio.get_running_loop().time() + writer.extend_delay
            if hung:  # viewers have received a gap; the files show the finals
                self._lost_finals += sum(event.is_final for event in kept)
                for outgoing in self._in_flight:
                    self.published.apply(outgoing.payload)
                self._in_flight = []
                return
        self._skip(drops, drops)
        while self._in_flight:
            self._release(self._in_flight.pop(0))

    @property
    def _unreported_drops(self) -> int:
        return self._outbox.dropped_finals - self._reported_drops

    def _needed(self, drops: int) -> Counters:
        """The counters after a gap of `drops` numbers and all events in flight are published."""
        needed = replace(self._shown, seq=self._shown.seq + drops)
        for event in self._in_flight:
            needed = needed.after(event.payload)
        return needed

    def _skip(self, count: int, drops: int) -> None:
        """Make the next `count` numbers a gap, which includes `drops` finals that the outbox dropped."""
        if count:
            self._reported_drops += drops
            self._shown = replace(self._shown, seq=self._shown.seq + count)
            if self._hub.feeds.get(self.name) is self._feed:
                self._hub.skip(self.name, count)

    async def _wait_for_disk(self, writer: CaptionStore, call: Coroutine[None, None, None]) -> bool:
        """Wait for `call`. Returns whether the disk hung, so that a gap covers the events being written.

        Raises OSError; TimeoutError if the disk hangs at the end of the stream.
        """
        task = asyncio.ensure_future(call)
        began, hung = time.monotonic(), False
        await asyncio.wait((task,), timeout=POLL_SECONDS)
        while not task.done():
            now = time.monotonic()
            too_late = self._closing_since is not None and now >= self._closing_since + CLOSE_SECONDS
            if not hung and (too_late or now >= began + writer.hang_seconds):
                hung = True
                self._hang(writer)
            if too_late:
                task.cancel()  # its thread continues
                raise TimeoutError(f"{writer.medium} does not answer")
            await asyncio.wait((task,), timeout=POLL_SECONDS)
        task.result()
        return hung

    def _hang(self, writer: CaptionStore) -> None:
        if self._numbered:
            self._numbered = False
            drops = self._unreported_drops
            self._skip(len(self._in_flight) + drops, drops)
        self._set_disk(_held_reason(f"cannot write {writer.path}: {writer.medium} does not answer"))

    async def _rewrite_cues(self, writer: CaptionStore) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._stale_cues = False
        try:
            await self._wait_for_disk(writer, writer.write_cues(merge_cues(self.published.finals)))
        except OSError as error:
            self._stale_cues = True
            self._rewrite_at = loop.time() + RETRY_SECONDS
            return f"cannot write {error.filename or writer.path}: {error.strerror or error}"
        self._rewrite_at = began + rewrite_pause(loop.time() - began)
        return ""

    async def _end(self, writer: CaptionStore) -> None:
        reason = await self._send(writer)
        if writer.is_lost:
            return
        waiting = self._outbox.finals
        if reason or waiting:
            self._lost_finals += waiting
            lost = self.dropped_finals
            log.error("stream %s: %s; %d finals are lost", self.name, reason, lost, extra={"stream": self.name})
            count = waiting + self._unreported_drops
            if writer.reserved.covers(replace(self._shown, seq=self._shown.seq + count)):
                self._skip(count, self._unreported_drops)
            return
        if not await self._rewrite_cues(writer):
            with contextlib.suppress(OSError):  # then the next run skips the reserved numbers
                await self._wait_for_disk(writer, writer.release_unused(self.counters()))


def rewrite_pause(cost: float) -> float:
    """Seconds from the start of a rewrite of the subtitle files, which took `cost` seconds, to the next one."""
    return max(REWRITE_INTERVAL_S, min(REWRITE_SHARE * cost, MAX_REWRITE_SECONDS))


async def wait_through_cancel(task: asyncio.Task[None]) -> None:
    """Wait until `task` is done, also if the caller is cancelled; then raise that cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _held_reason(reason: str) -> str:
    return f"{reason}; captions are held until it works again"
