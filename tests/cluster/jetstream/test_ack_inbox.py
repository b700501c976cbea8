"""What `AckInbox.publish` returns and raises, with a real nats-server."""

from __future__ import annotations

import asyncio

import pytest
from nats.js.errors import APIError, NoStreamResponseError

from streamcap.cluster.jetstream.ack_inbox import ANSWER_SECONDS
from streamcap.cluster.jetstream.connection import Connection
from testbed.nats import NatsCluster

EXPECTED = "Nats-Expected-Last-Subject-Sequence"


async def test_answers_belong_to_their_messages(connection: Connection) -> None:
    publish = connection.acks.publish
    stored = await asyncio.gather(*(publish(f"sc.cap.cam{i}", b"", {EXPECTED: "0"}) for i in range(50)))
    assert stored == list(range(1, 51))
    with pytest.raises(APIError, match="wrong last sequence"):
        await publish("sc.cap.cam7", b"", {EXPECTED: "7"})
    assert await publish("sc.cap.cam7", b"", {EXPECTED: "8"}) == 51
    with pytest.raises(NoStreamResponseError):
        await publish("nobody.stores.this", b"", {})


async def test_silent_server_is_a_timeout(connection: Connection, nats_server: NatsCluster) -> None:
    publish = connection.acks.publish
    nats_server.servers[0].pause()
    try:
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(publish(f"sc.cap.{i}", b"", {}) for i in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 3
        assert asyncio.get_running_loop().time() - began >= ANSWER_SECONDS
    finally:
        nats_server.servers[0].resume()
    # The late answers to those three are not taken for the answer to this one.
    assert await publish("sc.cap.next", b"", {EXPECTED: "0"}) == 4
