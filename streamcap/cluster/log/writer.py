"""`LogWriter`: the `CaptionStore` of an owner: one stream's log in JetStream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from streamcap.captions.cue import Cue
from streamcap.captions.event import Event
from streamcap.cluster.connection import Connection
from streamcap.cluster.log.entry import body_of, headers_of, read_entry
from streamcap.cluster.ownership import LogEntry, NotOwnerError, Ownership, OwnerState, Write
from streamcap.cluster.subjects import LOG_STREAM, log_subject
from streamcap.streams.counters import Counters
from streamcap.streams.storage.caption_files import SavedHistory
from streamcap.streams.storage.event_outbox import Outgoing

log = logging.getLogger(__name__)

# A reservation goes this far beyond the numbers in use: the next owner skips the unused rest.
AHEAD_NUMBERS = 1000
AHEAD_SECONDS = 10.0
ANSWER_SECONDS = 2.0
RETRY_SECONDS = 0.2
WARN_SECONDS = 3.0
EXTEND_SECONDS = 2.0
"""Between two writes that only move the end of a caption."""
_WRONG_LAST_SEQUENCE = 10071


class LogWriter:
    """Stores every event but interims before anybody sees it. A write is sent again, under the same id, until
    JetStream stores or refuses it: meanwhile events wait in the publisher's outbox.

    Parameters:
        on_lost: called once when another node has taken the stream.
    """

    hang_seconds = float("inf")
    medium = "JetStream"
    extend_delay = EXTEND_SECONDS

    def __init__(self, connection: Connection, stream: str, node: str, on_lost: Callable[[str], None]) -> None:
        self.path = f"JetStream's log of {stream}"
        self.ownership = Ownership(stream, node, time.monotonic)
        self.waits_since: float | None = None
        """Monotonic seconds at which the write that has no answer yet began."""
        self.logged = 0
        """`seq` of the newest stored event."""
        self._connection = connection
        self._stream = stream
        self._on_lost = on_lost

    @property
    def reserved(self) -> Counters:
        return self.ownership.reserved

    @property
    def taken(self) -> bool:
        return self.ownership.is_lost

    @property
    def must_confirm(self) -> bool:
        return self.ownership.must_confirm

    def report(self) -> bool:
        """Call at every progress report. Returns whether this node may report progress."""
        return self.ownership.report()

    def keeps(self, event: Event | Outgoing) -> bool:
        return not event.is_interim

    async def open(self, window: float, first: Counters) -> SavedHistory:
        """Claim the stream: from now on an earlier owner is refused. The captions stay with the gateways."""
        while self.ownership.state is OwnerState.CLAIMING:
            last = await self._read_last()
            await self._store(self.ownership.take_over(last, _ahead, first))
        begin = self.ownership.begin
        self.logged = begin.seq - 1
        return SavedHistory([], [], begin)

    def is_low(self, needed: Counters) -> bool:
        ahead = needed.ahead(AHEAD_NUMBERS // 2, AHEAD_SECONDS / 2)
        return not self.reserved.covers(ahead) or self.ownership.must_confirm

    async def reserve_seq(self, needed: Counters) -> None:
        await self._write(self.ownership.write([], self.logged + 1, _ahead(needed)))

    async def append(self, events: Sequence[Event], needed: Counters) -> None:
        """Raises NotOwnerError once another node has taken the stream."""
        await self._write(self.ownership.write(events, events[0].seq, _ahead(needed)))
        self.logged = events[-1].seq

    async def write_cues(self, cues: Iterable[Cue]) -> None:
        """Gateways and recorders render the subtitles."""

    async def release_unused(self, counters: Counters) -> None:
        await self._write(self.ownership.release(counters))

    async def close(self) -> None:
        self.ownership.end()

    async def _write(self, write: Write) -> None:
        if not await self._store(write):
            log.warning("stream %s: another node continues it; this node stops", self._stream)
            self._on_lost(self._stream)
            raise NotOwnerError(f"stream {self._stream}: another node continues it")

    async def _store(self, write: Write) -> bool:
        """Send `write` until JetStream has stored it, or refuses it. Returns whether it is stored."""
        headers, body = headers_of(self._stream, write), body_of(write)
        began, warned = time.monotonic(), False
        self.waits_since = began
        while True:
            try:
                answer = await self._connection.jetstream.publish(
                    log_subject(self._stream), body, timeout=ANSWER_SECONDS, headers=dict(headers)
                )
            except APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    self.waits_since = None
                    return self.ownership.refused(write, await self._read_last())
                reason: object = error.description
            except (NatsError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            else:
                self.waits_since = None
                self.ownership.stored(write, answer.seq)
                return True
            if not warned and time.monotonic() - began >= WARN_SECONDS:
                warned = True
                log.warning("stream %s: captions wait for JetStream: %s", self._stream, reason)
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_last(self) -> LogEntry | None:
        """The newest message of the log, from the leader of its replicas."""
        while True:
            try:
                message = await self._connection.jetstream.get_last_msg(LOG_STREAM, log_subject(self._stream))
            except NotFoundError:
                return None
            except (NatsError, OSError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return read_entry(self._stream, message.seq or 0, message.headers, message.data or b"")


def _ahead(counters: Counters) -> Counters:
    return counters.ahead(AHEAD_NUMBERS, AHEAD_SECONDS)
