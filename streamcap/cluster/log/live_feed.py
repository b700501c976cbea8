"""`LiveFeed`: sends the interims of owned streams to the gateways over core NATS, which keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib

from nats.errors import Error as NatsError

from streamcap.captions.event import Event
from streamcap.captions.hub import Hub
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import live_subject
from streamcap.cluster.log.writer import LogWriter


class LiveFeed:
    """At most one interim a stream waits. Policy: the newer one replaces the older one (KEEP_LATEST).

    A message is the number of the newest stored event before the interim, a line break, and the interim: a gateway
    shows it only after that event.
    """

    def __init__(self, connection: Connection, hub: Hub) -> None:
        self.replaced = 0
        """Interims that a newer one replaced, or that came while NATS was away or the stream's owner in doubt."""
        self._connection = connection
        self._writers: dict[str, LogWriter] = {}
        self._waiting: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        hub.observers.append(self._observe)

    def add(self, name: str, writer: LogWriter) -> None:
        """`writer` owns stream `name` from now on."""
        self._writers[name] = writer

    def remove(self, name: str) -> None:
        """This node has the stream no longer."""
        self._writers.pop(name, None)
        self._waiting.pop(name, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                name = next(iter(self._waiting))
                body = self._waiting.pop(name)
                if not self._connection.is_connected:
                    self.replaced += 1
                    continue
                with contextlib.suppress(NatsError, OSError):
                    await self._connection.client.publish(live_subject(name), body)

    def _observe(self, event: Event) -> None:
        if not event.is_interim:
            return
        writer = self._writers.get(event.stream)
        if writer is None or not writer.ownership.may_show:
            self.replaced += 1
            return
        self.replaced += event.stream in self._waiting
        self._waiting[event.stream] = f"{writer.logged}\n{event.text}".encode()
        self._wake.set()
