"""What a node keeps of the streams that it has had, with a real nats-server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import ServiceUnavailableError

from streamcap.captions.hub import Hub
from streamcap.cluster.assignment.assigned_streams import Assigned
from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.assignment.registry import StreamConfig, StreamRegistry
from streamcap.cluster.ingest import Ingest
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.recorder import Recorder
from streamcap.cluster.tasks import end_tasks
from streamcap.streams.options import StreamOptions
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream_set import StreamSet
from tests.cluster.assignment.test_nodes import hear
from tests.cluster.log.test_log import until


async def test_recorder_keeps_nothing_of_lost_streams(connection: Connection, tmp_path: Path) -> None:
    registry, nodes = StreamRegistry(connection), NodeDirectory(connection, None)
    recorder = Recorder(connection, "a", RecorderOptions(tmp_path), registry, nodes)
    recorder.owned["door"] = Assigned(None, None)
    recorder.on_lost("door")
    assert recorder.is_lost("door")
    await until(lambda: not recorder.owned)
    assert not recorder.is_lost("door") and not recorder._busy


async def test_nothing_is_kept_of_streams_that_left(connection: Connection) -> None:
    streams = StreamSet(StreamOptions(), Hub(time.monotonic, time.time))
    live = LiveFeed(connection, streams.hub)
    registry, nodes = StreamRegistry(connection), NodeDirectory(connection, None)
    ingest = Ingest(connection, "a", streams, registry, nodes, live)
    for name in ("moved", "removed", "lost"):
        ingest.open_store(name)
        ingest.owned[name] = Assigned(None, None)
    assert set(ingest.writers) == set(live._writers) == {"moved", "removed", "lost"}
    await ingest._give_back("moved")
    await ingest._start("removed")  # the registry does not know it
    await ingest._abandon("lost", ingest.owned["lost"])
    assert not ingest.owned and not ingest.writers and not live._writers and not ingest._busy


def ingest_of(connection: Connection, *streams: str) -> tuple[Ingest, NodeDirectory]:
    """Node "a" of a cluster with these streams."""
    registry = StreamRegistry(connection)
    for name in streams:
        registry.streams[name] = StreamConfig(name, "test:", StreamSettings(), "default")
    own = NodeInfo("a", "host", "default", ("ingest",), capacity=4)
    nodes, hub = NodeDirectory(connection, lambda: own), Hub(time.monotonic, time.time)
    return Ingest(connection, "a", StreamSet(StreamOptions(), hub), registry, nodes, LiveFeed(connection, hub)), nodes


@pytest.mark.parametrize("other", ["killed", "starting"])
async def test_share_of_a_node_that_cannot_take_is_taken(connection: Connection, other: str) -> None:
    ingest, nodes = ingest_of(connection, "own", "waiting")
    ingest.owned["own"] = Assigned(None, None)
    hear(nodes, "a", 0.1)
    hear(nodes, "b", 0.2)
    assert not ingest._may_take(), "the other stream is for b"
    if other == "killed":
        hear(nodes, "b", 3.5)
    else:
        hear(nodes, "b", 0.2, starting=True)
    assert ingest._may_take()


async def test_election_leaves_the_consumer_as_it_is(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    add, made, fetches = connection.jetstream.add_consumer, list[object](), list[int]()

    async def count(*arguments: Any, **options: Any) -> object:
        made.append(arguments)
        return await add(*arguments, **options)

    class Electing:
        async def fetch(self, batch: int, timeout: float) -> list[object]:
            fetches.append(batch)
            raise ServiceUnavailableError

        async def unsubscribe(self) -> None:
            """Nothing was subscribed."""

    async def bind(durable: str, stream: str) -> Electing:
        return Electing()

    monkeypatch.setattr(connection.jetstream, "add_consumer", count)
    monkeypatch.setattr(connection.jetstream, "pull_subscribe_bind", bind)
    ingest, _ = ingest_of(connection, "waiting")
    taking = asyncio.create_task(ingest._take_streams())
    await until(lambda: len(fetches) >= 3)
    await end_tasks((taking,))
    assert len(made) == 1
