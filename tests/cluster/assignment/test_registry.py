"""The bucket of the streams, with a real nats-server."""

from __future__ import annotations

import asyncio

import pytest

from streamcap.cluster.assignment import registry as module
from streamcap.cluster.assignment.registry import StreamConfig, StreamRegistry
from streamcap.cluster.jetstream.connection import ClusterError, Connection
from streamcap.cluster.tasks import end_tasks
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream_set import DuplicateStreamError
from testbed.nats import NatsCluster

DOOR = StreamConfig("door", "rtsp://camera/1", StreamSettings(), "default")


async def test_name_is_free_again_after_removal(connection: Connection) -> None:
    registry = StreamRegistry(connection)
    reading = asyncio.create_task(registry.run())
    await registry.add(DOOR)
    with pytest.raises(DuplicateStreamError, match="door already exists"):
        await registry.add(DOOR)
    await registry.remove("door")
    await registry.add(DOOR)
    assert registry.streams["door"].url == DOOR.url
    await end_tasks([reading])


async def test_silent_jetstream_is_no_taken_name(
    connection: Connection, nats_server: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    connection.jetstream._timeout = 0.5
    registry = StreamRegistry(connection)
    reading = asyncio.create_task(registry.run())
    await registry.add(DOOR)
    nats_server.servers[0].pause()
    try:
        for change in (registry.add(DOOR), registry.remove("door")):
            with pytest.raises(ClusterError, match="JetStream does not answer"):
                await change
    finally:
        nats_server.servers[0].resume()
    await end_tasks([reading])
