"""`FeedWriter`: publishes one stream's events in order, each final once it is in the file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine

from streamcap.captions.caption import Caption
from streamcap.captions.cue import merge_cues
from streamcap.captions.event import Extend, Payload, Status, encode
from streamcap.captions.event_log import EventLog
from streamcap.captions.track import CaptionTrack
from streamcap.streams.counters import Counters
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


class FeedWriter:
    """Outbox → store → hub. The store is that of files, or a log on other machines; without one, all goes to the hub.

    With files, a final is in `NAME.jsonl` before any viewer receives it; the events after it wait. While the disk
    fails or hangs, finals wait in the outbox, interims are dropped, and a status gives the reason. Finals that do not
    fit the outbox, or that were being written when the disk hung, are lost to viewers: a `gap` covers their numbers,
    and they are counted. Only numbers reserved on the disk are published, so that no later run repeats them.

    All methods run on the event loop; `run` is the one task.

    Parameters:
        every: seconds between captions.
        on_disk: called with the reason why events wait, or with an empty text; it may publish a status.
    """

    def __init__(
        self, name: str, every: float, deps: StreamDeps, first: Counters | None, on_disk: Callable[[str], None]
    ) -> None:
        self.name = name
        self.begin = first or Counters()
        """Where this stream starts. After `open`."""
        self.window = deps.options.subtitle_window
        self.published = CaptionTrack(name, every=every, window=self.window)
        """The captions that viewers and subtitle files may show: with files, only finals in `NAME.jsonl`."""
        self._hub = deps.hub
        self._feed = EventLog(name, keep=deps.options.replay_events)
        self._store = deps.open_store(name)
        self._outbox = EventOutbox(coalesce=self._store is not None and self._store.extend_delay > 0)
        self._on_disk = on_disk
        self._in_flight: list[Outgoing] = []
        self._numbered = False  # the events in flight are being written under the next numbers
        self._shown = self.begin
        self._current_ended = False  # the newest final is no longer true
        self._open_end = 0.0  # end of an interim without a final yet
        self._lost_finals = 0  # besides those that the outbox dropped
        self._reported_drops = 0
        self._cues_reason = ""
        self._stale_cues = False
        self._rewrite_at = 0.0
        self._extend_at = 0.0
        self._wake = asyncio.Event()
        self._closing_since: float | None = None

    async def open(self) -> list[Caption]:
        """Continue an earlier stream of this name, or its files. Returns its captions that are still shown.

        Raises OSError, FilesLockedError.
        """
        store, every = self._store, self.published.every
        history = SavedHistory([], [], self.begin) if store is None else await store.open(self.window, self.begin)
        self.begin = self.begin.union(history.counters)
        self._feed.refill(history.finals, self.begin.seq)
        self.published = CaptionTrack(self.name, every=every, window=self.window, next_number=self.begin.caption)
        for caption in history.shown:
            self.published.restore(caption)
        self._shown = self.begin._replace(seq=self._feed.last_seq + 1)
        return history.shown

    def register(self) -> None:
        """Make the stream visible to viewers."""
        self._hub.add(self._feed)

    def fail(self, status: Status) -> None:
        """The stream failed before its numbers were known: `status` takes none."""
        self._feed.set_status(status)
        self._hub.add(self._feed)

    def counters(self) -> Counters:
        """Numbers and times beyond those that viewers have seen."""
        return self._shown._replace(time=max(self.begin.time, self._open_end))

    @property
    def has_status(self) -> bool:
        """Whether a status was published."""
        return self._feed.status is not None

    @property
    def dropped_finals(self) -> int:
        """Finals that no viewer received, because the disk failed or hung for too long."""
        return self._outbox.dropped_finals + self._lost_finals

    @property
    def waiting_finals(self) -> int:
        """Finals that no viewer has received, since they are not stored yet."""
        return self._outbox.finals + sum(event.is_final for event in self._in_flight)

    async def run(self, counters: Callable[[], Counters]) -> None:
        """Keep the files up to date until `close`. Do not cancel it: a write on a thread cannot be cancelled.

        counters: where the next stream of this name starts, asked at the end.
        """
        if self._store is None:
            return
        while self._closing_since is None:
            try:
                await self._write_once(self._store)
            except Exception:  # a bug: the captions wait in the outbox for the next attempt
                log.exception("stream %s: writing the files failed", self.name, extra={"stream": self.name})
                await self._pause(RETRY_SECONDS)
        await self._end(self._store, counters)

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
        if self._store is not None:
            await self._store.close()

    # -- in order

    def publish(self, payload: Payload, *, live: bool = True) -> None:
        """Publish in order: a final once it is in the file, other events at once unless a final waits before them."""
        event = Outgoing(payload, live)
        if event.is_final:
            self._current_ended = False
        if self._can_publish_now(event):
            self._release(event)
        else:
            self._outbox.put(event)
        if self._store is not None and (self._outbox or self._store.is_low(self._shown)):
            self._wake.set()

    def touch_cues(self) -> None:
        """The cues have changed: rewrite the subtitle files soon."""
        self._stale_cues = True
        self._wake.set()

    def clear_current(self) -> None:
        """The current caption, or the one that waits for the store, is no longer true, and none replaces it."""
        self._current_ended = True
        self._feed.clear_current()

    def _can_publish_now(self, event: Outgoing) -> bool:
        if self._store is None:
            return True
        if self._numbered or not self._store.reserved.covers(self._shown.after(event.payload)):
            return False
        if isinstance(event.payload, Status) and self._outbox.blocked and not self._store.keeps(event):
            return True  # viewers must learn at once that captions wait
        return not self._store.keeps(event) and not self._outbox and not self._in_flight

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
        if self._current_ended:
            self._feed.clear_current()

    # -- the store

    def _note_disk(self, reason: str) -> None:
        self._outbox.blocked = bool(reason)
        self._on_disk(reason)

    async def _write_once(self, store: CaptionStore) -> None:
        now = asyncio.get_running_loop().time()
        if not store.is_low(self._shown) and (not self._outbox or self._holds_extend()):
            ends = [
                at for at, given in ((self._rewrite_at, self._stale_cues), (self._extend_at, self._outbox)) if given
            ]
            await self._wait(max(0.0, min(ends) - now) if ends else None)
        self._wake.clear()
        holds = self._holds_extend() and not store.is_low(self._shown)
        reason = "" if holds else await self._send(store)
        if not reason and self._stale_cues and asyncio.get_running_loop().time() >= self._rewrite_at:
            self._cues_reason = await self._rewrite_cues(store)
        self._note_disk(_held_reason(reason) if reason else self._cues_reason)
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

    async def _send(self, store: CaptionStore) -> str:
        """Write and publish the waiting events. Returns the reason if the disk fails."""
        try:
            while self._outbox or store.is_low(self._shown):
                self._in_flight = self._outbox.take(MAX_BATCH)
                await self._send_batch(store)
        except OSError as error:
            return f"cannot write {error.filename or store.path}: {error.strerror or error}"
        finally:
            self._outbox.put_back(self._in_flight)
            self._in_flight = []
        return ""

    async def _send_batch(self, store: CaptionStore) -> None:
        while store.is_low(needed := self._needed(self._unreported_drops)):
            await self._wait_for_disk(store, store.reserve_seq(needed))
        drops = self._unreported_drops  # more may be dropped during the write: they get later numbers
        begin = self._shown.seq + drops
        events = [encode(seq, event.payload) for seq, event in enumerate(self._in_flight, begin)]
        kept = [event for event in events if store.keeps(event)]
        if kept:
            self._numbered = True
            try:
                hung = await self._wait_for_disk(store, store.append(kept, self._needed(drops)))
            finally:
                self._numbered = False
            self._extend_at = asyncio.get_running_loop().time() + store.extend_delay
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
        needed = self._shown._replace(seq=self._shown.seq + drops)
        for event in self._in_flight:
            needed = needed.after(event.payload)
        return needed

    def _skip(self, count: int, drops: int) -> None:
        """Make the next `count` numbers a gap, which includes `drops` finals that the outbox dropped."""
        if count:
            self._reported_drops += drops
            self._shown = self._shown._replace(seq=self._shown.seq + count)
            if self._hub.feeds.get(self.name) is self._feed:
                self._hub.skip(self.name, count)

    async def _wait_for_disk(self, store: CaptionStore, call: Coroutine[None, None, None]) -> bool:
        """Wait for `call`. Returns whether the disk hung, so that a gap covers the events being written.

        Raises OSError; TimeoutError if the disk hangs at the end of the stream.
        """
        task = asyncio.ensure_future(call)
        began, hung = time.monotonic(), False
        await asyncio.wait((task,), timeout=POLL_SECONDS)
        while not task.done():
            now = time.monotonic()
            too_late = self._closing_since is not None and now >= self._closing_since + CLOSE_SECONDS
            if not hung and (too_late or now >= began + store.hang_seconds):
                hung = True
                self._hang(store)
            if too_late:
                task.cancel()  # its thread continues
                raise TimeoutError(f"{store.medium} does not answer")
            await asyncio.wait((task,), timeout=POLL_SECONDS)
        task.result()
        return hung

    def _hang(self, store: CaptionStore) -> None:
        if self._numbered:
            self._numbered = False
            drops = self._unreported_drops
            self._skip(len(self._in_flight) + drops, drops)
        self._note_disk(_held_reason(f"cannot write {store.path}: {store.medium} does not answer"))

    async def _rewrite_cues(self, store: CaptionStore) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._stale_cues = False
        try:
            await self._wait_for_disk(store, store.write_cues(merge_cues(self.published.finals)))
        except OSError as error:
            self._stale_cues = True
            self._rewrite_at = loop.time() + RETRY_SECONDS
            return f"cannot write {error.filename or store.path}: {error.strerror or error}"
        self._rewrite_at = began + rewrite_pause(loop.time() - began)
        return ""

    async def _end(self, store: CaptionStore, counters: Callable[[], Counters]) -> None:
        reason = await self._send(store)
        if store.is_lost:
            return
        waiting = self._outbox.finals
        if reason or waiting:
            self._lost_finals += waiting
            lost = self.dropped_finals
            log.error("stream %s: %s; %d finals are lost", self.name, reason, lost, extra={"stream": self.name})
            count = waiting + self._unreported_drops
            if store.reserved.covers(self._shown._replace(seq=self._shown.seq + count)):
                self._skip(count, self._unreported_drops)
            return
        if not await self._rewrite_cues(store):
            with contextlib.suppress(OSError):  # then the next run skips the reserved numbers
                await self._wait_for_disk(store, store.release_unused(counters()))


def rewrite_pause(cost: float) -> float:
    """Seconds from the start of a rewrite of the subtitle files, which took `cost` seconds, to the next one."""
    return max(REWRITE_INTERVAL_S, min(REWRITE_SHARE * cost, MAX_REWRITE_SECONDS))


def _held_reason(reason: str) -> str:
    return f"{reason}; captions are held until it works again"
