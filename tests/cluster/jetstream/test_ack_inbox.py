"""What `AckInbox.publish` returns and raises, with a real nats-server."""

from __future__ import annotations

import asyncio

import pytest
from nats.js.errors import APIError, NoStreamResponseError

from streamcap.cluster.jetstream.ack_inbox import ANSWER_SECONDS
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.direct_client import make_header
from testbed.nats import NatsCluster


def expected(sequence: int) -> bytes:
    return make_header({"Nats-Expected-Last-Subject-Sequence": str(sequence)})


async def test_answers_belong_to_their_messages(connection: Connection) -> None:
    publish = connection.acks.publish
    stored = await asyncio.gather(*(publish(f"sc.cap.cam{i}", b"", expected(0)) for i in range(50)))
    assert stored == list(range(1, 51))
    with pytest.raises(APIError, match="wrong last sequence"):
        await publish("sc.cap.cam7", b"", expected(7))
    assert await publish("sc.cap.cam7", b"", expected(8)) == 51
    with pytest.raises(NoStreamResponseError):
        await publish("nobody.stores.this", b"", make_header({}))


async def test_silent_server_is_a_timeout(connection: Connection, nats_server: NatsCluster) -> None:
    publish = connection.acks.publish
    nats_server.servers[0].pause()
    try:
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(
            *(publish(f"sc.cap.{i}", b"", make_header({})) for i in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [TimeoutError] * 3
        assert asyncio.get_running_loop().time() - began >= ANSWER_SECONDS
    finally:
        nats_server.servers[0].resume()
    # The late answers to those three are not taken for the answer to this one.
    assert await publish("sc.cap.next", b"", expected(0)) == 4
