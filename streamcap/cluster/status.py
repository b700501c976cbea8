"""`read_status`: what a cluster does now: its nodes, its streams, who runs them, and how old their newest event is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

from nats.errors import Error as NatsError

from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.assignment.registry import StreamRegistry
from streamcap.cluster.jetstream.connection import ClusterError, Connection
from streamcap.cluster.jetstream.subjects import INGEST_QUEUE, LOG_STREAM, name_of
from streamcap.cluster.log.entry import read_entry
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.cluster.tasks import end_tasks
from streamcap.redact import redact

READ_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream."""

    name: str
    url: str
    site: str
    owner: str
    """Node that wrote the newest message of its log; empty: none has run it yet."""
    owner_alive: bool
    term: int
    seq: int
    """The newest stored event."""
    age_s: float
    """Seconds since the newest message was stored."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    nodes: list[NodeInfo]
    streams: list[StreamStatus]
    waiting: dict[str, int]
    """By site: streams that no node holds."""
    stored: int
    """Messages in all logs."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def read_status(connection: Connection) -> ClusterStatus:
    """Read everything once. Raises ClusterError."""
    heads: dict[str, Message] = {}
    nodes, registry = NodeDirectory(connection, None), StreamRegistry(connection)
    logs = StreamReader(
        connection,
        LOG_STREAM,
        "sc.cap.*",
        lambda message: heads.__setitem__(name_of(message.subject), message),
        last_per_subject=True,
    )
    tasks = [asyncio.create_task(each) for each in (nodes.run(), registry.run(), logs.run())]
    try:
        async with asyncio.timeout(READ_SECONDS):
            for ready in (nodes.ready, registry.ready, logs.caught_up):
                await ready.wait()
            info = await connection.jetstream.stream_info(LOG_STREAM)
            waiting = {
                consumer.name.removeprefix("ingest-"): consumer.num_pending or 0
                for consumer in await connection.jetstream.consumers_info(INGEST_QUEUE.stream)
                if consumer.name.startswith("ingest-")
            }
    except (NatsError, OSError, TimeoutError):
        raise ClusterError("JetStream does not answer; retry in a moment") from None
    finally:
        await end_tasks(tasks)
    alive = {node.id for node in nodes.nodes}
    streams = [
        _stream(config.name, redact(config.url), config.site, heads.get(config.name), alive)
        for _, config in sorted(registry.streams.items())
    ]
    return ClusterStatus(nodes.nodes, streams, waiting, info.state.messages)


def _stream(name: str, url: str, site: str, head: Message | None, alive: set[str]) -> StreamStatus:
    if head is None:
        return StreamStatus(name, url, site, "", owner_alive=False, term=0, seq=0, age_s=0.0)
    try:
        entry = read_entry(name, head.sequence, head.headers, head.body)
    except ValueError:
        return StreamStatus(name, url, site, "", owner_alive=False, term=0, seq=0, age_s=0.0)
    seq = entry.begin - 1 + len(entry.events)
    age = max(0.0, time.time() - head.stored_at)
    return StreamStatus(name, url, site, entry.node, entry.node in alive, entry.term, seq, round(age, 2))
