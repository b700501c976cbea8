"""`Position`: how far a stream's log is in the files, kept in JetStream, written by one recorder at a time."""

from __future__ import annotations

import time

from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import RECORDED_STREAM, recorded_subject
from streamcap.cluster.log.fenced_subject import FencedSubject
from streamcap.cluster.log.ownership import NotOwnerError, Ownership
from streamcap.streams.counters import Counters


class Position:
    """Fenced as a stream's log is: a recorder that was paused or cut off is refused, and stops."""

    def __init__(self, connection: Connection, stream: str, node: str) -> None:
        self.ownership = Ownership(stream, node, time.monotonic)
        self._subject = FencedSubject(connection, RECORDED_STREAM, recorded_subject(stream), self.ownership)

    @property
    def next(self) -> int:
        """JetStream's sequence after the newest message of the log that is in the files. After `claim`."""
        return self.ownership.reserved.seq

    async def claim(self) -> None:
        """Become the only recorder: from now on an earlier one is refused."""
        await self._subject.claim(lambda counters: counters, Counters())

    async def advance(self, next_sequence: int) -> None:
        """All messages before `next_sequence` are in the files. Raises NotOwnerError if another node records."""
        counters = Counters(next_sequence)
        if not await self._subject.store(self.ownership.write([], counters.seq, counters)):
            raise NotOwnerError(f"another node records stream {self.ownership.stream}")

    async def confirm(self) -> None:
        """Find out whether another node records, if this one was silent for so long. Raises NotOwnerError."""
        if self.ownership.must_confirm:
            await self.advance(self.next)
