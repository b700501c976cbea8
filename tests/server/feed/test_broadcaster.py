"""`FeedBroadcaster` with viewers that do not read."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.subscription import SubscribeOptions
from streamcap.server.feed.broadcaster import MESSAGES_PER_TURN, FeedBroadcaster, _Connection
from streamcap.server.http import server as http_server
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captions.fakes import caption
from tests.server.conftest import Server, Start, receive, until

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest_asyncio.fixture(loop_scope="session")
async def patient(start: Start, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A service with one stream, `door`, that ends nobody for the time that passes: what is judged here are the queues,
    and the clocks of the kernel (TCP_USER_TIMEOUT) and of the websocket's pings would run out first on a busy machine.
    """
    monkeypatch.setattr(http_server, "DEAD_PEER_MS", 1000 * TIMEOUT_FACTOR)
    config = uvicorn.Config
    monkeypatch.setattr(
        uvicorn, "Config", lambda *given, **options: config(*given, **{**options, "ws_ping_interval": None})
    )
    server = await start()
    await server.streams.add("door", "rtsp://user:***@camera/1")
    return server


async def deaf_viewer(server: Server, request: str) -> socket.socket:
    """A socket that subscribes and never reads; closed with the test."""
    client = socket.socket()
    server.sockets.callback(client.close)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
    await asyncio.get_running_loop().sock_sendall(client, request.encode())
    return client


@pytest.mark.slow
async def test_stuck_viewer_is_closed_without_affecting_others(patient: Server) -> None:
    broadcaster, door = patient.app.state.broadcaster, patient.streams.get("door")
    for _ in range(3):
        await deaf_viewer(patient, HANDSHAKE.format(path="/captions"))
    sse = f"GET /captions/door HTTP/1.1\r\nHost: 127.0.0.1:{patient.port}\r\n\r\n"
    await deaf_viewer(patient, sse)
    good = await patient.viewer("?stream=door", ping_interval=None)
    await receive(good, 1)
    await until(lambda: broadcaster.present == 5)
    sent = 0
    text = "a long sentence about a man with a dog " * 50
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while broadcaster.present > 1:
            for _ in range(50):
                door.final(text)
            sent += 50
            await receive(good, 50)
    assert broadcaster.statistics.closed_slow == 4
    assert broadcaster.statistics.finals_dropped >= 4
    assert door.feed.last_seq == sent


async def test_slow_viewer_gets_a_gap_and_continues(patient: Server) -> None:
    door = patient.streams.get("door")
    client = await deaf_viewer(patient, HANDSHAKE.format(path="/captions?stream=door"))
    broadcaster = patient.app.state.broadcaster
    await until(lambda: broadcaster.present == 1)
    (subscription,) = broadcaster.hub._subscriptions.values()
    text = "a long sentence about a man with a dog " * 50
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not subscription.statistics.finals_dropped:
            for _ in range(50):
                door.final(text)
            await asyncio.sleep(0)
    # When it reads again, it gets complete frames with rising numbers, and one gap for the dropped events.
    loop = asyncio.get_running_loop()
    data = bytearray()
    messages: list[dict[str, object]] = []
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not messages or messages[-1].get("seq") != door.feed.last_seq:
            chunk = await loop.sock_recv(client, 1 << 20)
            assert chunk, "it was closed"
            data += chunk
            messages += frames(data)
    seen: list[int] = []
    for message in messages[1:]:
        if message["type"] == "gap":
            seen += range(int(str(message["from"])), int(str(message["to"])) + 1)
        else:
            seen.append(int(str(message["seq"])))
    assert seen == list(range(1, door.feed.last_seq + 1))
    assert [message["type"] for message in messages].count("gap") == 1


class FakeProtocol:
    """A protocol whose buffer has space for `space` pushes."""

    def __init__(self) -> None:
        self.space = 0
        self.pushed: list[list[dict[str, object]]] = []
        self.ended: list[int] = []

    @property
    def is_writable(self) -> bool:
        return self.space > 0

    def push(self, data: bytes) -> None:
        self.space -= 1
        self.pushed.append(frames(bytearray(data)))

    def end(self, code: int, reason: str) -> None:
        self.ended.append(code)


async def test_replay_is_sent_at_reader_speed() -> None:
    hub = Hub(time.monotonic, time.time)
    hub.add(EventLog("door"))
    for number in range(1, 201):
        hub.publish(caption(number=number))
    protocol: Any = FakeProtocol()
    connection = _Connection(FeedBroadcaster(hub, 1), protocol)
    connection.subscription = hub.subscribe(SubscribeOptions(streams=frozenset({"door"})), connection.wake, 0)
    connection.is_open = True
    for space, expected in ((2, 2), (1, 3), (9, 7)):
        protocol.space = space
        connection.wake()
        for _ in range(10):  # turns of the loop
            await asyncio.sleep(0)
            assert max(map(len, protocol.pushed), default=0) <= MESSAGES_PER_TURN
        assert len(protocol.pushed) == expected
        if space == 1:
            # New events queue behind the replay; a removed viewer gets all pending events first.
            hub.publish(caption(number=201))
            hub.remove("door")
    assert [message.get("seq") for part in protocol.pushed for message in part] == [None, *range(1, 202)]
    assert protocol.ended == [4404]


def frames(data: bytearray) -> list[dict[str, object]]:
    """Remove the complete text frames from the front of `data` and decode them."""
    if data.startswith(b"HTTP"):
        if b"\r\n\r\n" not in data:
            return []
        del data[: data.index(b"\r\n\r\n") + 4]
    found = []
    while len(data) >= 4:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        if len(data) < start + size:
            break
        found.append(json.loads(data[start : start + size]))
        del data[: start + size]
    return found
