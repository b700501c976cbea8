"""`FencedSubject`: a subject of JetStream that one owner at a time writes; JetStream refuses a former one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from streamcap.cluster.jetstream.ack_inbox import ANSWER_SECONDS
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.log.entry import body_of, header_of, read_entry
from streamcap.cluster.log.ownership import LogEntry, Ownership, OwnerState, Write, is_undecided
from streamcap.cluster.log.write_statistics import WriteStatistics
from streamcap.streams.counters import Counters

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
WARN_SECONDS = 3.0
_WRONG_LAST_SEQUENCE = 10071


class FencedSubject:
    """Stores the writes of `ownership`. A write is sent again, with the same id, until JetStream stores or refuses it.
    A repeat of a stored write is refused, because it names the message before; the id of the newest message then shows
    that it is stored.

    Parameters:
        stream: of JetStream, to which `subject` belongs.
        statistics: counts the writes.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subject: str,
        ownership: Ownership,
        statistics: WriteStatistics | None = None,
    ) -> None:
        self.waits_since: float | None = None
        """Monotonic seconds at which the write that has no answer yet began."""
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._ownership = ownership
        self._statistics = statistics or WriteStatistics()

    async def claim(self, ahead: Callable[[Counters], Counters], first: Counters) -> None:
        """Become the owner: from now on an earlier one is refused. Parameters as `Ownership.take_over`."""
        while self._ownership.state is OwnerState.CLAIMING:
            last = await self._read_last()
            await self.store(self._ownership.take_over(last, ahead, first))

    async def store(self, write: Write) -> bool:
        """Send `write` until JetStream has stored it, or refuses it. Returns whether it is stored."""
        name = self._ownership.stream
        header, body = header_of(write), body_of(write)
        began, warned = time.monotonic(), False
        self.waits_since = began
        while True:
            try:
                sequence = await self._connection.acks.publish(self._subject, body, header)
            except APIError as error:
                reason: object = error.description
                if error.err_code == _WRONG_LAST_SEQUENCE and not is_undecided(write, last := await self._read_last()):
                    self.waits_since = None
                    is_stored = self._ownership.refused(write, last)
                    self._statistics.refused += not is_stored
                    return is_stored
            except (NatsError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            else:
                self.waits_since = None
                self._statistics.stored(time.monotonic() - began)
                self._ownership.stored(write, sequence)
                return True
            if not warned and time.monotonic() - began >= WARN_SECONDS:
                warned = True
                log.warning("stream %s: captions wait for JetStream: %s", name, reason)
            await asyncio.sleep(RETRY_SECONDS)
            self._statistics.repeated += 1

    async def _read_last(self) -> LogEntry | None:
        """The newest message of the subject, from the leader of its replicas."""
        while True:
            try:
                # A request to a leader that has just died gets no answer.
                async with asyncio.timeout(ANSWER_SECONDS):
                    message = await self._connection.jetstream.get_last_msg(self._stream, self._subject)
            except NotFoundError:
                return None
            except (NatsError, OSError, TimeoutError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return read_entry(self._ownership.stream, message.seq or 0, message.headers, message.data or b"")
