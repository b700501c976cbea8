"""The streams of a cluster, as gateways change them, with a real nats-server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from streamcap.captions.hub import Hub
from streamcap.cluster.assignment.nodes import NodeDirectory
from streamcap.cluster.assignment.registry import StreamRegistry
from streamcap.cluster.gateway.gateway_streams import GatewayStreams
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import STREAMS_BUCKET
from streamcap.cluster.tasks import end_tasks
from streamcap.streams.options import StreamOptions
from streamcap.streams.settings import StreamSettings


@dataclass
class Gateways:
    streams: list[GatewayStreams]
    connection: Connection

    async def put(self, url: str, every: float) -> None:
        """Both make stream `door` so, at the same time."""
        settings = StreamSettings(every=every)
        await asyncio.gather(*(gateway.put("door", url, settings) for gateway in self.streams))

    async def writes(self) -> int:
        """How often the bucket was written."""
        return int((await self.connection.jetstream.stream_info(f"KV_{STREAMS_BUCKET}")).state.last_seq)


@pytest.fixture
async def gateways(connection: Connection) -> AsyncIterator[Gateways]:
    registries = [StreamRegistry(connection) for _ in range(2)]
    tasks = [asyncio.create_task(registry.run()) for registry in registries]
    streams = []
    for number, registry in enumerate(registries):
        await registry.ready.wait()
        hub, nodes = Hub(time.monotonic, time.time), NodeDirectory(connection, None)
        gateway = GatewayStreams(
            StreamOptions(), hub, registry, nodes, f"node{number}",
            local=lambda name: None, model="mini", runs_streams=True,
        )  # fmt: skip
        gateway.ready = True
        streams.append(gateway)
    yield Gateways(streams, connection)
    await end_tasks(tasks)


async def test_nodes_with_the_same_file_agree_in_one_write(gateways: Gateways) -> None:
    await gateways.put("rtsp://camera/1", 2.0)
    assert await gateways.writes() == 1
    await gateways.put("rtsp://camera/2", 3.0)
    assert await gateways.writes() == 2
    await gateways.put("rtsp://camera/2", 3.0)
    assert await gateways.writes() == 2
    for gateway in gateways.streams:
        stream = gateway.get("door")
        assert (stream.source_url, stream.every) == ("rtsp://camera/2", 3.0)
