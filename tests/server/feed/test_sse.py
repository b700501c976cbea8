"""Server-sent events as a browser's EventSource or curl sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streamcap.captions.subscription import SubscribeOptions
from streamcap.server.feed.query import FeedRequest
from streamcap.server.feed.sse import EventStream
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Server, Start, until


@asynccontextmanager
async def event_source(server: Server, path: str, **headers: str) -> AsyncIterator[AsyncIterator[str]]:
    async with server.http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield response.aiter_lines()


async def events(lines: AsyncIterator[str], count: int) -> list[tuple[int | None, dict[str, Any]]]:
    """The next events with their ids."""
    found: list[tuple[int | None, dict[str, Any]]] = []
    number: int | None = None
    async with asyncio.timeout(TIMEOUT_FACTOR):
        async for line in lines:
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                found.append((number, json.loads(line[6:])))
                number = None
                if len(found) == count:
                    break
    return found


async def test_event_id_is_seq(server: Server) -> None:
    door = server.streams.get("door")
    async with event_source(server, "/captions/door") as lines:
        (hello,) = await events(lines, 1)
        assert hello[0] is None
        assert hello[1]["type"] == "hello"
        door.interim("a man")
        door.final("a man opens a door\nwith » care")
        interim, final = await events(lines, 2)
    assert (interim[0], final[0]) == (1, 2)
    assert final[1]["text"] == "a man opens a door with » care"


async def test_replay_is_sent_at_reader_speed(server: Server) -> None:
    for number in range(100):
        server.streams.get("door").final(f"caption {number}")
    broadcaster, sent, over = server.app.state.broadcaster, [], asyncio.Event()

    async def receive() -> dict[str, str]:
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b"").count(b"data: "))
        if sum(sent) == 101:
            over.set()

    stream = EventStream(broadcaster, FeedRequest(SubscribeOptions(streams=frozenset({"door"})), 0), heartbeat=60.0)
    async with asyncio.timeout(TIMEOUT_FACTOR):
        await stream({"type": "http"}, receive, send)
    assert [count for count in sent if count] == [32, 32, 32, 5]


async def test_last_event_id_replays_missed_events(server: Server) -> None:
    door = server.streams.get("door")
    for number in range(4):
        door.final(f"caption {number}")
    async with event_source(server, "/captions/door", **{"Last-Event-ID": "2"}) as lines:
        _, *samples_missed = await events(lines, 3)
    assert [number for number, _ in samples_missed] == [3, 4]
    async with event_source(server, "/captions/door?since=3") as lines:
        _, last = await events(lines, 2)
    assert last[1]["text"] == "caption 3"


async def test_last_event_id_of_earlier_service_starts_now(server: Server) -> None:
    async with event_source(server, "/captions/door", **{"Last-Event-ID": "999"}) as lines:
        await events(lines, 1)
        server.streams.get("door").final("new")
        assert (await events(lines, 1))[0][1]["text"] == "new"


async def test_invalid_request_is_refused(server: Server) -> None:
    assert (await server.http.get("/captions/nobody")).status_code == 404
    assert (await server.http.get("/captions/nobody", headers={"Last-Event-ID": "1"})).status_code == 404
    assert (await server.http.get("/captions/door?since=7")).status_code == 400
    assert (await server.http.get("/captions/door", headers={"Last-Event-ID": "x"})).status_code == 400
    assert server.app.state.broadcaster.present == 0


async def test_keepalive_and_disconnect_detection(start: Start) -> None:
    server = await start(heartbeat=0.05)
    await server.streams.add("door", "rtsp://door")
    async with event_source(server, "/captions/door") as lines:
        found = []
        async for line in lines:
            found.append(line)
            if found.count(": alive") == 2:
                break
        assert "retry: 2000" in found
        assert server.app.state.broadcaster.present == 1
    await until(lambda: server.app.state.broadcaster.present == 0)


async def test_removed_stream_ends_response(server: Server) -> None:
    async with event_source(server, "/captions/door") as lines:
        await events(lines, 1)
        await server.streams.remove("door")
        async with asyncio.timeout(TIMEOUT_FACTOR):
            rest = [line async for line in lines]
    assert ": closed, stream door was removed" in rest


async def test_shutdown_ends_response(server: Server) -> None:
    async with event_source(server, "/captions/door") as lines:
        await events(lines, 1)
        server.stop.set()
        async with asyncio.timeout(TIMEOUT_FACTOR):
            rest = [line async for line in lines]
    assert ": closed, the service is stopping" in rest
    await asyncio.wait_for(server.task, TIMEOUT_FACTOR)
