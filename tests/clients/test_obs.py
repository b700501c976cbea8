"""`streamcap-obs`, against a websocket server that implements the documented obs-websocket 5 protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio
from streamcap_client import Feed, RefusedError
from streamcap_client.caption_slot import CaptionSlot, fitted
from streamcap_client.obs import Bridge, obs_url
from streamcap_client.obs_session import ObsRefusedError, authentication
from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve

from testbed.timeouts import TIMEOUT_FACTOR
from tests.clients.conftest import CLIENTS
from tests.server.conftest import Server, until

pytestmark = pytest.mark.slow

SALT, CHALLENGE = "lM1GncleQOaCu9lT1yeUZhFYnqhsLLP1G5lAGo3ixaI=", "+IxH4CnCiqpX1rM9scsNynZzbOe4KhDeYcTNS3PDaeY="


class Obs:
    """OBS as docs/generated/protocol.md of obs-websocket describes it; `captions` is what its stream carries."""

    def __init__(self, password: str | None = None, *, streaming: bool = True) -> None:
        self.password, self.streaming = password, streaming
        self.captions: list[str] = []
        self.refused = 0
        self.connections = 0
        self.port = 0
        self._server: WebSocketServer | None = None
        self._open: set[ServerConnection] = set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def begin(self) -> None:
        self._server = await serve(
            self._serve, "127.0.0.1", self.port, subprotocols=["obswebsocket.json", "obswebsocket.msgpack"]
        )  # type: ignore[arg-type]
        self.port = self._server.sockets[0].getsockname()[1]

    async def end(self, code: int = 1001) -> None:
        if self._server is not None:
            for connection in list(self._open):
                await connection.close(code)
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, connection: ServerConnection) -> None:
        self._open.add(connection)
        try:
            hello: dict[str, Any] = {"obsWebSocketVersion": "5.1.0", "rpcVersion": 1}
            if self.password is not None:
                hello["authentication"] = {"challenge": CHALLENGE, "salt": SALT}
            await connection.send(json.dumps({"op": 0, "d": hello}))
            identify = json.loads(await connection.recv())
            assert identify["op"] == 1
            if self.password is not None and identify["d"].get("authentication") != self._expected():
                await connection.close(4009, "Authentication failed.")
                return
            if identify["d"]["rpcVersion"] != 1:
                await connection.close(4010)
                return
            await connection.send(json.dumps({"op": 2, "d": {"negotiatedRpcVersion": 1}}))
            self.connections += 1
            async for text in connection:
                await self._answer(connection, json.loads(text))
        finally:
            self._open.discard(connection)

    async def _answer(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        assert message["op"] == 6
        asked = message["d"]
        assert asked["requestType"] == "SendStreamCaption"
        if self.streaming:
            self.captions.append(asked["requestData"]["captionText"])
            status: dict[str, Any] = {"result": True, "code": 100}
        else:
            self.refused += 1
            status = {"result": False, "code": 501}
        answer = {"requestType": asked["requestType"], "requestId": asked["requestId"], "requestStatus": status}
        # An unrequested event must not be taken for the response.
        event = {"eventType": "StudioModeStateChanged", "eventIntent": 1, "eventData": {"studioModeEnabled": True}}
        await connection.send(json.dumps({"op": 5, "d": event}))
        await connection.send(json.dumps({"op": 7, "d": answer}))

    def _expected(self) -> str:
        """By the steps of "Creating an authentication string"."""
        hashed = sha256(f"{self.password}{SALT}".encode()).digest()
        base64_secret = base64.standard_b64encode(hashed)
        return base64.standard_b64encode(sha256(base64_secret + CHALLENGE.encode("ascii")).digest()).decode("ascii")


@pytest_asyncio.fixture(loop_scope="session")
async def obs() -> AsyncIterator[Obs]:
    obs = Obs()
    await obs.begin()
    yield obs
    await obs.end()


@contextlib.asynccontextmanager
async def bridge(
    server: Server, url: str, password: str | None = None, *, every: float = 0.001, hold: float = 60.0
) -> AsyncIterator[tuple[Bridge, list[str], asyncio.Task[None]]]:
    printed: list[str] = []
    feed = Feed(server.url, streams=["door"], interim=False, first_pause=0.01, longest_pause=0.05)
    one = Bridge(feed, url, password, printed.append, every=every, hold=hold, first_pause=0.01, longest_pause=0.05)
    task = asyncio.create_task(one.run())
    try:
        yield one, printed, task
    finally:
        task.cancel()
        await asyncio.wait([task])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_slot_keeps_newest_and_counts_replaced() -> None:
    clock = Clock()
    slot = CaptionSlot(2.0, 10.0, clock)
    for number in range(3):
        slot.put(f"door-{number}", f"caption {number}")
    assert slot.pause() == 0.0
    first = slot.take()
    assert first is not None and first.text == "caption 2"
    assert slot.statistics.replaced == 2
    assert slot.take() is None
    clock.now += 0.5
    slot.put("door-3", "caption 3")
    assert slot.pause() == 1.5
    slot.give_back(first)
    assert slot.statistics.replaced == 3


def test_stale_caption_is_dropped() -> None:
    clock = Clock()
    slot = CaptionSlot(2.0, 10.0, clock)
    slot.put("door-1", "a man")
    clock.now += 9.0
    slot.extend("door-1")
    slot.extend("door-0")
    clock.now += 9.0
    line = slot.take()
    assert line is not None
    slot.give_back(line)
    clock.now += 1.0
    assert slot.take() is None
    assert slot.statistics.stale == 1


def test_long_caption_is_cut_to_four_rows() -> None:
    assert fitted("a man\nopens  a well-known door") == "a man opens a well-known door"
    long = fitted("a man with a dog " * 20)
    assert len(long) <= 4 * 33 and long.endswith(("man", "with", "a", "dog"))
    assert fitted("x" * 40) == "x" * 40


def test_challenge_response_matches_openssl() -> None:
    assert authentication("supersecretpassword", SALT, CHALLENGE) == "1Ct943GAT+6YQUUX47Ia/ncufilbe6+oD6lY+5kaCu4="


@pytest.mark.parametrize("text", ["", "http://host", "ws://", "ws://me:secret@host", "ws://host/secret", "host:x"])
def test_invalid_address_hides_password(text: str) -> None:
    with pytest.raises(ValueError, match="not the address of OBS") as caught:
        obs_url(text)
    assert "secret" not in str(caught.value)


def test_address_without_scheme_or_port() -> None:
    assert obs_url("studio") == "ws://studio:4455"
    assert obs_url("wss://studio:1/") == "wss://studio:1"
    assert obs_url("[::1]") == "ws://[::1]:4455"


async def test_only_finals_reach_obs(server: Server, obs: Obs) -> None:
    door = server.streams.get("door")
    async with bridge(server, obs.url) as (one, printed, _):
        await until(lambda: server.app.state.broadcaster.present == 1 and obs.connections == 1)
        for number in range(3):
            door.interim("a man")
            door.final(f"a man opens door {number}")
            await until(lambda n=number: len(obs.captions) == n + 1)
        await until(lambda: one.slot.statistics.sent == 3)
    assert obs.captions == [f"a man opens door {number}" for number in range(3)]
    assert printed == [
        f"connected to OBS at {obs.url} (obs-websocket 5.1.0)",
        f"OBS accepts captions at {obs.url}",
    ]


async def test_fast_captions_keep_newest(server: Server, obs: Obs) -> None:
    door = server.streams.get("door")
    async with bridge(server, obs.url, every=3600.0) as (one, _, _):
        await until(lambda: server.app.state.broadcaster.present == 1)
        door.final("first")
        await until(lambda: obs.captions == ["first"])
        for number in range(10):
            door.final(f"number {number}")
        await until(lambda: one.slot.statistics.replaced == 9)
        line = one.slot.take()
        assert line is not None and line.text == "number 9"
    assert obs.captions == ["first"]


async def test_password_is_accepted_and_never_logged(server: Server, obs: Obs) -> None:
    obs.password = "correct horse"
    async with bridge(server, obs.url, "correct horse") as (_, printed, _):
        await until(lambda: server.app.state.broadcaster.present == 1)
        server.streams.get("door").final("a man")
        await until(lambda: obs.captions == ["a man"])
    assert not any("horse" in line for line in printed)


@pytest.mark.parametrize(("password", "reason"), [("wrong horse", "wrong password"), (None, "STREAMCAP_OBS_PASSWORD")])
async def test_wrong_password_stops_bridge(server: Server, obs: Obs, password: str | None, reason: str) -> None:
    obs.password = "correct horse"
    async with bridge(server, obs.url, password) as (_, _, task):
        with pytest.raises(ObsRefusedError, match=reason) as caught:
            await asyncio.wait_for(asyncio.shield(task), TIMEOUT_FACTOR)
    assert "horse" not in str(caught.value)
    assert obs.connections == 0


async def test_idle_obs_gets_newest_when_streaming_starts(server: Server, obs: Obs) -> None:
    obs.streaming = False
    door = server.streams.get("door")
    async with bridge(server, obs.url) as (one, printed, _):
        await until(lambda: server.app.state.broadcaster.present == 1)
        door.final("a man")
        await until(lambda: obs.refused >= 3)
        door.final("a dog")
        await until(lambda: one.slot.statistics.replaced == 1)
        obs.streaming = True
        await until(lambda: obs.captions == ["a dog"])
    assert sum("not streaming" in line for line in printed) == 1


async def test_bridge_reconnects_to_obs(server: Server, obs: Obs) -> None:
    await obs.end()
    door = server.streams.get("door")
    async with bridge(server, obs.url) as (one, printed, _):
        await until(lambda: one.reconnections >= 3 and server.app.state.broadcaster.present == 1)
        assert len(printed) == 1 and "no OBS at" in printed[0]
        door.final("said before OBS came")
        await until(lambda: one.slot._line is not None)
        await obs.begin()
        await until(lambda: obs.captions == ["said before OBS came"])
        await obs.end()
        await until(lambda: "no OBS at" in printed[-1])
        await obs.begin()
        await until(lambda: obs.connections == 2)
        door.final("said after it came back")
        await until(lambda: obs.captions[1:] == ["said after it came back"])


async def test_kicked_bridge_does_not_reconnect(server: Server, obs: Obs) -> None:
    async with bridge(server, obs.url) as (_, _, task):
        await until(lambda: obs.connections == 1)
        await obs.end(4011)
        with pytest.raises(ObsRefusedError, match="Kick"):
            await asyncio.wait_for(asyncio.shield(task), TIMEOUT_FACTOR)


async def test_caption_websocket_is_not_obs(server: Server) -> None:
    async with bridge(server, server.url.replace("http", "ws")) as (_, _, task):
        with pytest.raises(ObsRefusedError, match="not OBS's websocket"):
            await asyncio.wait_for(asyncio.shield(task), TIMEOUT_FACTOR)


@pytest.mark.parametrize("text", ["{}", "[]", "hello", '{"op": 0, "d": {}}', '{"op": 5, "d": {"rpcVersion": 1}}'])
async def test_unknown_websocket_is_not_obs(server: Server, text: str) -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send(text)
        await connection.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as other:
        url = f"ws://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        async with bridge(server, url) as (_, _, task):
            with pytest.raises(ObsRefusedError, match="obs-websocket 5"):
                await asyncio.wait_for(asyncio.shield(task), TIMEOUT_FACTOR)


async def test_refused_feed_stops_bridge(server: Server, obs: Obs) -> None:
    printed: list[str] = []
    with pytest.raises(RefusedError, match="nobody"):
        await asyncio.wait_for(
            Bridge(Feed(server.url, streams=["nobody"]), obs.url, None, printed.append).run(), TIMEOUT_FACTOR
        )


async def command(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamcap_client.obs", *arguments),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CLIENTS / "python"), **environment},
    )


async def test_command_sends_and_counts_captions(server: Server, obs: Obs) -> None:
    obs.password = "correct horse"
    process = await command(server.url, "--obs", obs.url, STREAMCAP_OBS_PASSWORD="correct horse")
    try:
        await until(lambda: server.app.state.broadcaster.present == 1 and obs.connections == 1)
        server.streams.get("door").final("a man opens a door")
        await until(lambda: obs.captions == ["a man opens a door"])
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while b"accepts captions" not in (line := await process.stderr.readline()):
                assert line, "it ended"
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_FACTOR)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert errors.decode() == "streamcap-obs: 1 captions sent; 0 replaced by newer ones, 0 expired\n"


async def test_wrong_password_is_one_line_with_exit_code_2(server: Server, obs: Obs) -> None:
    obs.password = "correct horse"
    process = await command(server.url, "--obs", obs.url, "--password", "wrong horse")
    _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_FACTOR)
    assert process.returncode == 2
    assert errors.decode().startswith("streamcap-obs: wrong password") and errors.decode().count("\n") == 1
    assert "horse" not in errors.decode()
