"""`LogWriter`: the `CaptionStore` of an owner: one stream's log in JetStream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from streamcap.captions.cue import Cue
from streamcap.captions.event import Event
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import LOG_STREAM, log_subject
from streamcap.cluster.log.fenced_subject import FencedSubject
from streamcap.cluster.log.ownership import NotOwnerError, Ownership, OwnerState, Write
from streamcap.cluster.log.write_statistics import WriteStatistics
from streamcap.streams.counters import Counters
from streamcap.streams.storage.caption_files import SavedHistory
from streamcap.streams.storage.event_outbox import Outgoing

log = logging.getLogger(__name__)

REFRESHES = 4
"""Writes of a silent owner in the time for which JetStream keeps a message: without one in the log, the next owner
would not know which numbers are used."""
EXTEND_SECONDS = 2.0
"""Between two writes that only move the end of a caption."""


class LogWriter:
    """Stores every event but interims before anybody sees it. A write is sent again, under the same id, until
    JetStream stores or refuses it: meanwhile events wait in the publisher's outbox.

    Parameters:
        on_lost: called once when another node has taken the stream.
        statistics: counts the writes.
    """

    hang_seconds = float("inf")
    medium = "JetStream"
    extend_delay = EXTEND_SECONDS

    def __init__(
        self,
        connection: Connection,
        stream: str,
        node: str,
        on_lost: Callable[[str], None],
        statistics: WriteStatistics | None = None,
    ) -> None:
        self.path = f"JetStream's log of {stream}"
        self.ownership = Ownership(stream, node, time.monotonic)
        self.logged = 0
        """`seq` of the newest stored event."""
        self._refresh_seconds = connection.keep_seconds / REFRESHES
        self._written_at = time.monotonic()
        self._stream = stream
        self._on_lost = on_lost
        self._subject = FencedSubject(connection, LOG_STREAM, log_subject(stream), self.ownership, statistics)

    @property
    def waits_since(self) -> float | None:
        """Monotonic seconds at which the write that has no answer yet began."""
        return self._subject.waits_since

    @property
    def reserved(self) -> Counters:
        return self.ownership.reserved

    @property
    def is_lost(self) -> bool:
        return self.ownership.is_lost

    @property
    def must_confirm(self) -> bool:
        """Whether a write is due although there is nothing to say: the owner is in doubt, or the log grows old."""
        is_old = time.monotonic() - self._written_at >= self._refresh_seconds
        return self.ownership.must_confirm or (is_old and self.ownership.state is OwnerState.OWNING)

    def report(self) -> bool:
        """Call at every progress report. Returns whether this node may report progress."""
        return self.ownership.report()

    def keeps(self, event: Event | Outgoing) -> bool:
        return not event.is_interim

    async def open(self, window: float, first: Counters) -> SavedHistory:
        """Claim the stream: from now on an earlier owner is refused. The captions stay with the gateways."""
        await self._subject.claim(Counters.reservation, first)
        begin = self.ownership.begin
        self.logged = begin.seq - 1
        return SavedHistory([], [], begin)

    def is_low(self, needed: Counters) -> bool:
        return self.reserved.is_low(needed) or self.must_confirm

    async def reserve_seq(self, needed: Counters) -> None:
        await self._write(self.ownership.write([], self.logged + 1, needed.reservation()))

    async def append(self, events: Sequence[Event], needed: Counters) -> None:
        """Raises NotOwnerError once another node has taken the stream."""
        await self._write(self.ownership.write(events, events[0].seq, needed.reservation()))
        self.logged = events[-1].seq

    async def write_cues(self, cues: Iterable[Cue]) -> None:
        """Gateways and recorders render the subtitles."""

    async def release_unused(self, counters: Counters) -> None:
        await self._write(self.ownership.release(counters))

    async def close(self) -> None:
        self.ownership.end()

    async def _write(self, write: Write) -> None:
        self._written_at = time.monotonic()
        if not await self._subject.store(write):
            log.warning("stream %s: another node continues it; this node stops", self._stream)
            self._on_lost(self._stream)
            raise NotOwnerError(f"stream {self._stream}: another node continues it")
