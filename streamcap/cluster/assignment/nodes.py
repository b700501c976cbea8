"""`NodeDirectory`: the nodes of the cluster, from their reports, which expire in a JetStream bucket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from nats.errors import Error as NatsError

from streamcap.cluster.assignment.balance import NodeLoad
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import NODES_BUCKET
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.cluster.tasks import end_tasks

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
DEAD_SECONDS = 6.0
"""Without a report for this long, a node counts as dead."""
SILENT_SECONDS = 3.0
"""A node that is so long behind the newest report of all takes no more streams, as far as the others can know."""
_KEY_PREFIX = f"$KV.{NODES_BUCKET}."


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node, as it last reported."""

    id: str
    host: str
    site: str
    roles: tuple[str, ...]
    url: str = ""
    """Where its gateway listens; empty without that role."""
    capacity: int = 0
    streams: int = 0
    recorded: int = 0
    """Streams that it writes to files."""
    cpu: float = 0.0
    """Used share of the machine's CPUs by this process, 0 to 1."""
    draining: bool = False
    starting: bool = False
    """It takes no streams yet."""
    model: str = ""
    credits: int = 0
    """Samples that its engine takes now."""
    rows_per_second: float = 0.0
    """Samples that its engine has captioned per second lately, for all nodes."""
    version: str = ""

    @property
    def load(self) -> NodeLoad:
        return NodeLoad(self.id, self.capacity if "ingest" in self.roles else 0, self.streams, self.is_closed)

    @property
    def is_closed(self) -> bool:
        """Whether it takes no streams now."""
        return self.draining or self.starting

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, body: bytes) -> NodeInfo:
        """Raises ValueError, TypeError."""
        message = json.loads(body)
        if not isinstance(message, dict):
            raise ValueError("not a node")
        known = {field.name: message[field.name] for field in fields(cls) if field.name in message}
        return cls(**{**known, "roles": tuple(message.get("roles", ()))})


class CpuMeter:
    """The share of the machine's CPUs that this process uses."""

    def __init__(self) -> None:
        self._last = (time.monotonic(), time.process_time())

    def read(self) -> float:
        """Since the last call, 0 to 1."""
        now = (time.monotonic(), time.process_time())
        elapsed, used = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return min(1.0, used / elapsed / (os.cpu_count() or 1)) if elapsed > 0 else 0.0


class NodeDirectory:
    """Reports `describe()` and follows the reports of others. `run` is the one task."""

    def __init__(self, connection: Connection, describe: Callable[[], NodeInfo] | None) -> None:
        self._connection = connection
        self._describe = describe
        self._seen: dict[str, tuple[float, NodeInfo]] = {}
        self._reader = StreamReader(
            connection, f"KV_{NODES_BUCKET}", f"{_KEY_PREFIX}>", self._take, last_per_subject=True
        )

    @property
    def ready(self) -> asyncio.Event:
        return self._reader.caught_up

    @property
    def nodes(self) -> list[NodeInfo]:
        """The nodes that are alive, by id; this one among them, also while its reports get lost."""
        return self._since(time.time() - DEAD_SECONDS)

    @property
    def reporting(self) -> list[NodeInfo]:
        """The nodes that may take a stream now: one that was just killed is no longer among them when JetStream offers
        its streams. While nobody's reports arrive, those that reported last."""
        newest = max((at for at, _ in self._seen.values()), default=0.0)
        return self._since(max(newest - SILENT_SECONDS, time.time() - DEAD_SECONDS))

    def _since(self, start: float) -> list[NodeInfo]:
        """By id: the nodes that have reported after `start`, and this one."""
        alive = {node: info for node, (at, info) in self._seen.items() if at > start}
        if self._describe is not None:
            own = self._describe()
            alive[own.id] = own
        return [info for _, info in sorted(alive.items())]

    def find(self, node: str) -> NodeInfo | None:
        return next((info for info in self.nodes if info.id == node), None)

    async def run(self) -> None:
        """Report and follow until cancelled; call `leave` afterwards."""
        reading = asyncio.create_task(self._reader.run(), name="nodes")
        try:
            while True:
                await self.report()
                await asyncio.sleep(REPORT_SECONDS)
        finally:
            await end_tasks((reading,))

    async def report(self) -> None:
        """Send a report now. If it is lost, the next one replaces it."""
        if self._describe is not None and self._connection.is_connected:
            info = self._describe()
            with contextlib.suppress(NatsError, OSError):
                await self._connection.client.publish(f"{_KEY_PREFIX}{info.id}", info.as_json())

    async def leave(self) -> None:
        """Remove this node from the list at once."""
        if self._describe is not None and self._connection.is_connected:
            key = f"{_KEY_PREFIX}{self._describe().id}"
            with contextlib.suppress(NatsError, OSError):
                await self._connection.client.publish(key, b"", headers={"KV-Operation": "DEL"})

    def _take(self, message: Message) -> None:
        node = message.subject.removeprefix(_KEY_PREFIX)
        if message.headers.get("KV-Operation") in ("DEL", "PURGE"):
            self._seen.pop(node, None)
            return
        try:
            # This machine's clock: those of other machines may differ.
            age = 0.0 if self.ready.is_set() else max(0.0, time.time() - message.stored_at)
            self._seen[node] = (time.time() - age, NodeInfo.parse(message.body))
        except (ValueError, TypeError) as error:
            log.debug("the report of node %s is ignored: %s", node, error)
