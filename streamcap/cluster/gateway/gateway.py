"""`Gateway`: fills a hub from the logs and the interims of all streams, with the same numbers on every gateway."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from streamcap.captions.event import Event
from streamcap.captions.hub import Hub
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.direct_client import DirectCallback
from streamcap.cluster.jetstream.subjects import LOG_STREAM, name_of
from streamcap.cluster.log.entry import read_entry
from streamcap.cluster.log.ownership import LogEntry
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.cluster.log.stored_event import read_event
from streamcap.cluster.tasks import end_tasks, run_all

log = logging.getLogger(__name__)

REPLAY_SECONDS = 3600.0
"""What a gateway reads of the past when it starts."""
MAX_WAITING_INTERIMS = 32
"""Interims of one stream that came before the stored event they follow. Policy when full: the oldest is dropped."""


class Gateway:
    """Reads the logs. `run` is the one task.

    Parameters:
        add: called with the name of a stream and the number of its next event, before that is published. False: no
            stream has that name.
        apply: called with each message and its events, after they are published.
    """

    def __init__(
        self,
        connection: Connection,
        hub: Hub,
        *,
        add: Callable[[str, int], bool],
        apply: Callable[[str, LogEntry, list[Event]], None],
        replay_seconds: float = REPLAY_SECONDS,
    ) -> None:
        self.skipped = 0
        """Messages that streamcap did not write."""
        self.interims_dropped = 0
        self.ready = asyncio.Event()
        self._connection = connection
        self._hub = hub
        self._add = add
        self._apply = apply
        self._replay_seconds = replay_seconds
        self._seen: dict[str, int] = {}
        """JetStream's sequence of the newest message taken, by stream."""
        self._logged: dict[str, int] = {}
        """`seq` of the newest stored event, by stream."""
        self._reader: StreamReader | None = None
        self._early: dict[str, deque[tuple[int, str]]] = {}

    @property
    def lag(self) -> int:
        """Stored messages that have not been read yet."""
        return 0 if self._reader is None else self._reader.pending

    @property
    def restarts(self) -> int:
        """How often the reader of the logs started again."""
        return 0 if self._reader is None else self._reader.restarts

    async def run(self) -> None:
        """Until cancelled."""
        start = time.time() - self._replay_seconds
        newest: dict[str, Message] = {}
        heads = StreamReader(
            self._connection,
            LOG_STREAM,
            "sc.cap.*",
            lambda message: newest.__setitem__(name_of(message.subject), message),
            last_per_subject=True,
        )
        reading = asyncio.create_task(heads.run(), name="log-heads")
        try:
            await heads.caught_up.wait()
        finally:
            await end_tasks((reading,))
        for message in newest.values():
            if message.stored_at < start:
                self._take(message)  # older than what is read now: the numbers continue there
        self._reader = log_reader = StreamReader(self._connection, LOG_STREAM, "sc.cap.*", self._take, since=start)
        live = await self._connection.client.subscribe("sc.live.*", cb=DirectCallback(self._take_interim))
        try:
            await run_all(log_reader.run(), self._announce(log_reader.caught_up))
        finally:
            if self._connection.is_connected:
                await live.unsubscribe()

    async def _announce(self, caught_up: asyncio.Event) -> None:
        await caught_up.wait()
        self.ready.set()
        await asyncio.Event().wait()  # until cancelled

    def forget(self, name: str) -> None:
        """The stream was removed."""
        for table in (self._seen, self._logged, self._early):
            table.pop(name, None)

    def _take(self, message: Message) -> None:
        name = name_of(message.subject)
        if message.sequence <= self._seen.get(name, 0):
            return
        try:
            entry = read_entry(name, message.sequence, message.headers, message.body, is_viewer=True)
            events = [read_event(name, text) for text in entry.events]
        except ValueError as error:
            self.skipped += 1
            log.debug("stream %s: message %d is skipped: %s", name, message.sequence, error)
            return
        if not self._add(name, entry.begin):
            return
        self._seen[name] = message.sequence
        self._hub.advance(name, entry.begin)
        for event in events:
            self._hub.relay(event)
        logged = events[-1].seq if events else entry.begin - 1
        if logged > self._logged.get(name, 0):
            self._logged[name] = logged
        self._apply(name, entry, events)
        early = self._early.get(name)
        while early and early[0][0] <= self._logged[name]:
            self._show(name, early.popleft()[1])

    def _take_interim(self, subject: str, reply: str, header: bytes, body: bytes) -> None:
        name = name_of(subject)
        after, _, text = body.decode(errors="replace").partition("\n")
        if not after.isascii() or not after.isdecimal() or len(after) > 16:
            self.skipped += 1
            return
        if int(after) <= self._logged.get(name, 0):
            self._show(name, text)
            return
        if name not in self._hub.feeds:
            self.interims_dropped += 1  # of a stream that was removed, or that nobody has added
            return
        early = self._early.setdefault(name, deque())
        early.append((int(after), text))
        if len(early) > MAX_WAITING_INTERIMS:
            early.popleft()
            self.interims_dropped += 1

    def _show(self, name: str, text: str) -> None:
        if name not in self._hub.feeds:
            return
        try:
            event = read_event(name, text)
        except ValueError as error:
            self.skipped += 1
            log.debug("stream %s: an interim is skipped: %s", name, error)
            return
        # One of an owner that has lost the stream has a number that is used already.
        if not event.is_interim or not self._hub.relay(event):
            self.interims_dropped += 1
