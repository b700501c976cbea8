"""`Recording`: writes the captions of one stream from its log to its files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from streamcap.captions.caption import Caption
from streamcap.captions.cue import merge_cues
from streamcap.captions.event import Event, Extend
from streamcap.captions.track import CaptionTrack
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import LOG_STREAM, log_subject
from streamcap.cluster.log.entry import previous_sequence, read_entry
from streamcap.cluster.log.ownership import NotOwnerError
from streamcap.cluster.log.reader import Message
from streamcap.cluster.log.stored_event import read_event
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.position import Position
from streamcap.streams.counters import Counters
from streamcap.streams.publishing.feed_writer import rewrite_pause
from streamcap.streams.storage.caption_file_writer import CaptionFileWriter
from streamcap.streams.storage.caption_files import FilesLockedError

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Messages that wait for the disk. Policy when full: all are dropped, and read again from the log (READ_AGAIN)."""
MAX_BATCH = 64
"""Messages that are written together."""
RETRY_SECONDS = 2.0
# The recorder before this one may need its next message to find out that it must stop.
LOCK_SECONDS = 10.0
CLOSE_SECONDS = 5.0
HANG_SECONDS = 30.0
"""A disk that has not answered for this long hangs: another node may record the stream."""
# Finals at the end of the file that may be delivered again: far more than one batch has.
MAX_KNOWN = 1024


class Recording:
    """`open`, then `run` is the one task; `put` gives it what is stored from then on.

    A final is in `NAME.jsonl` before the position in JetStream says so. The next recorder reads from that position on;
    where it finds the same files, it leaves out the finals that are in them already.

    Parameters:
        on_lost: called once when another node records the stream.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        node: str,
        options: RecorderOptions,
        on_lost: Callable[[str], None],
    ) -> None:
        self.stream = stream
        self.position = Position(connection, stream, node)
        self.finals = 0
        """Written since the start."""
        self.skipped = 0
        """Messages that streamcap did not write."""
        self.read_again = 0
        """How often messages did not fit the memory, and were read again from the log."""
        self.waits_since: float | None = time.monotonic()
        """Monotonic seconds since which something waits to be written."""
        self._connection = connection
        self._window = options.subtitle_window
        self._writer = CaptionFileWriter(options.out, stream, options.rotation)
        self._track = CaptionTrack(stream, every=1.0, window=options.subtitle_window)
        self._counters = Counters()
        self._known: set[tuple[int, str, float]] = set()
        self._newest: tuple[int, float] = (0, 0.0)
        self._waiting: deque[Message] = deque()
        self._behind = True
        self._next = 1
        self._stale_cues = False
        self._rewrite_at = 0.0
        self._disk_since: float | None = None
        """Monotonic seconds at which the write to the disk began that has not ended yet."""
        self._closing = False
        self._to_end = False
        self._wake = asyncio.Event()
        self._on_lost = on_lost
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Claim the stream, then its files. Raises OSError, FilesLockedError."""
        await self.position.claim()
        self._next = await self._first_sequence()
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                history = await self._writer.open(self._window, Counters())
                break
            except FilesLockedError:
                if time.monotonic() >= end:
                    raise
                await asyncio.sleep(RETRY_SECONDS / 4)
        for caption in history.shown:
            self._track.restore(caption)
        for event in history.finals[-MAX_KNOWN:]:
            self._known.add(_key(event))
            self._newest = (event.seq, _key(event)[2])
        self._counters = history.counters
        self._stale_cues = bool(history.shown)
        self._task = asyncio.create_task(self._run(), name=f"record-{self.stream}")

    def put(self, message: Message) -> None:
        """A new message of the log."""
        self._waiting.append(message)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.clear()
            self.read_again += not self._behind
            self._behind = True
        if self.waits_since is None:
            self.waits_since = time.monotonic()
        self._wake.set()

    def report(self) -> bool:
        """Call at every progress report. Returns whether this node may report progress."""
        may_report = self.position.ownership.report()
        if self.position.ownership.must_confirm:
            self._wake.set()
        hangs = self._disk_since is not None and time.monotonic() - self._disk_since >= HANG_SECONDS
        return may_report and not hangs

    async def close(self, *, to_end: bool) -> None:
        """Finish the files. to_end: the stream was removed: write what its log still has."""
        self._closing, self._to_end = True, to_end
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=CLOSE_SECONDS)
            self._task.cancel()
        await self._writer.close()

    # -- the one task

    async def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    await self._step()
                except NotOwnerError:
                    raise
                except (NatsError, OSError) as error:
                    log.debug("recording stream %s: %s; trying again", self.stream, error)
                    self._behind = True
                    await self._pause(RETRY_SECONDS)
                except Exception:  # a bug: the captions are in the log for the next attempt
                    log.exception("stream %s: recording failed", self.stream)
                    self._behind = True
                    await self._pause(RETRY_SECONDS)
            if self._to_end:
                await self._catch_up()
            await self._end()
        except NotOwnerError:
            log.warning("stream %s: another node records it; this node stops", self.stream)
            self._on_lost(self.stream)
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("stream %s: the files were not finished: %s; the next recorder continues", self.stream, error)

    async def _step(self) -> None:
        await self.position.confirm()
        if self._behind:
            self._behind = False
            await self._catch_up()
            return
        if self._waiting:
            messages = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            if not self._follow(messages):
                self._behind = True
                return
            await self._write(messages)
        if self._stale_cues and time.monotonic() >= self._rewrite_at:
            await self._rewrite_cues()
        if not self._waiting and not self._behind:
            self.waits_since = None
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._rewrite_at - time.monotonic()) if self._stale_cues else None):
                    await self._wake.wait()

    async def _catch_up(self) -> None:
        """Write what the log has after the newest written message."""
        while not self._closing or self._to_end:
            messages = await self._read()
            if not messages:
                self._known.clear()
                return
            if self._next > 1 and not self._follow(messages[:1]):
                log.error("stream %s: captions were removed from its log before they were recorded", self.stream)
            await self._write(messages)

    async def _read(self) -> list[Message]:
        """The next messages of the log; empty: there are none. Raises NatsError, OSError, TimeoutError."""
        messages: list[Message] = []
        jetstream, subject, after = self._connection.jetstream, log_subject(self.stream), self._next
        while len(messages) < MAX_BATCH:
            try:
                found = await jetstream.get_msg(LOG_STREAM, seq=after, subject=subject, next=True)
            except NotFoundError:
                break
            sequence = found.seq or 0
            messages.append(Message(subject, sequence, 0.0, found.headers or {}, found.data or b""))
            after = sequence + 1
        return messages

    async def _write(self, messages: Sequence[Message]) -> None:
        """Add the captions to the files, then move the position. Raises NotOwnerError."""
        last = self._next
        events: list[Event] = []
        for message in messages:
            if message.sequence >= last:
                last = message.sequence + 1
                events += self._events(message)
        finals = [event for event in events if event.is_final and not self._is_known(event)]
        written = {event.seq for event in finals}
        needed = self._counters
        for event in events:
            needed = needed.after(event.payload).union(Counters(event.seq + 1))
        if finals:
            await self.position.confirm()
            await self._to_disk(finals, needed)
            self.finals += len(finals)
            self._newest = finals[-1].seq, _key(finals[-1])[2]
        self._counters, self._next = needed, last
        for event in events:
            if event.is_final and event.seq not in written:
                continue
            self._track.apply(event.payload)
            self._stale_cues |= isinstance(event.payload, Caption | Extend)
        if any(event.is_final for event in events):
            await self.position.advance(last)

    async def _to_disk(self, finals: list[Event], needed: Counters) -> None:
        """Append until the disk takes it; meanwhile the log keeps what comes."""
        failed = False
        while True:
            self._disk_since = time.monotonic()
            try:
                if self._writer.is_low(needed):
                    await self._writer.reserve_seq(needed)
                await self._writer.append(finals, needed)
                return
            except OSError as error:
                if self._closing:
                    raise
                if not failed:
                    failed = True
                    path = error.filename or self._writer.path
                    log.error("cannot write %s: %s; captions wait in the log", path, error.strerror or error)
                await self._pause(RETRY_SECONDS)
            finally:
                self._disk_since = None

    async def _rewrite_cues(self) -> None:
        began = time.monotonic()
        self._stale_cues = False
        try:
            await self._writer.write_cues(merge_cues(self._track.finals))
        except OSError as error:
            self._stale_cues = True
            self._rewrite_at = time.monotonic() + RETRY_SECONDS
            log.debug("cannot write the subtitles of %s: %s", self.stream, error)
            return
        self._rewrite_at = began + rewrite_pause(time.monotonic() - began)

    async def _end(self) -> None:
        await self._rewrite_cues()
        await self._writer.release_unused(self._counters)
        if self._next > self.position.next:
            await self.position.advance(self._next)

    # -- parts

    async def _first_sequence(self) -> int:
        """Where to begin: after what is recorded, unless the log was deleted and created again since."""
        if self.position.next <= await last_sequence(self._connection) + 1:
            return self.position.next
        log.warning("stream %s: its log was created again; all of it is recorded", self.stream)
        return 1

    def _follow(self, messages: Sequence[Message]) -> bool:
        """Whether `messages` of the log begin at once after what is written."""
        new = next((message for message in messages if message.sequence >= self._next), None)
        return new is None or previous_sequence(new.headers) < self._next

    def _events(self, message: Message) -> list[Event]:
        try:
            entry = read_entry(self.stream, message.sequence, message.headers, message.body, is_viewer=True)
            return [read_event(self.stream, text) for text in entry.events]
        except ValueError as error:
            self.skipped += 1
            log.debug("stream %s: message %d is skipped: %s", self.stream, message.sequence, error)
            return []

    def _is_known(self, event: Event) -> bool:
        """Whether the file has the final: the recorder before this one may have ended before it moved the position."""
        seq, _, captured_at = _key(event)
        return _key(event) in self._known or (seq <= self._newest[0] and captured_at <= self._newest[1])

    async def _pause(self, seconds: float) -> None:
        """Wait, but not after `close`."""
        end = time.monotonic() + seconds
        while not self._closing and (left := end - time.monotonic()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()


async def last_sequence(connection: Connection) -> int:
    """JetStream's sequence of the newest message of all logs. Waits until JetStream answers."""
    while True:
        try:
            return (await connection.jetstream.stream_info(LOG_STREAM)).state.last_seq
        except (NatsError, TimeoutError):
            await asyncio.sleep(RETRY_SECONDS / 4)


def _key(event: Event) -> tuple[int, str, float]:
    """Identifies a final, also over a log that was deleted and created again."""
    match event.payload:
        case Caption(id=id_, captured_at=captured_at):
            return event.seq, id_, round(captured_at, 3)
    return event.seq, "", 0.0
