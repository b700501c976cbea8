"""The websocket feed as a client sees it."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamcap.captions.event import StreamState
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Server, Start, receive, until


async def test_websocket_sends_hello_status_and_captions(server: Server) -> None:
    door = server.streams.get("door")
    door.status(StreamState.LIVE)
    viewer = await server.viewer("?stream=door")
    hello, status = await receive(viewer, 2)
    assert hello["type"] == "hello"
    assert hello["protocol"] == 1
    assert [stream["name"] for stream in hello["streams"]] == ["door"]
    assert (status["type"], status["state"]) == ("status", "live")

    door.interim("a man")
    door.final("a man opens a door")
    door.extend()
    interim, final, extend = await receive(viewer, 3)
    assert (interim["is_final"], interim["text"], interim["revision"]) == (False, "a man", 1)
    assert (final["is_final"], final["text"], final["revision"]) == (True, "a man opens a door", 2)
    assert interim["id"] == final["id"] == extend["id"]
    assert [interim["seq"], final["seq"], extend["seq"]] == [2, 3, 4]
    assert final["latency_ms"]["total"] == 9.7


async def test_since_replays_missed_events(server: Server) -> None:
    door = server.streams.get("door")
    for number in range(5):
        door.interim("so far")
        door.final(f"caption {number}")
    viewer = await server.viewer("?stream=door&since=4&interim=0")
    messages = await receive(viewer, 4)
    assert [m.get("text") for m in messages] == [None, "caption 2", "caption 3", "caption 4"]


async def test_since_before_replay_buffer_gives_gap(server: Server) -> None:
    door = server.streams.get("door")
    door.feed._max_stored = 2
    for number in range(5):
        door.final(f"caption {number}")
    hello, gap, *captions = await receive(await server.viewer("?stream=door&since=1"), 4)
    assert hello["oldest_seq"] == 4
    assert (gap["type"], gap["from"], gap["to"]) == ("gap", 2, 3)
    assert [c["seq"] for c in captions] == [4, 5]


async def test_several_streams_with_separate_since(server: Server) -> None:
    door, yard = server.streams.get("door"), await server.streams.add("yard", "rtsp://yard")
    for stream in (door, yard):
        stream.final("one")
        stream.final("two")
    viewer = await server.viewer("?stream=door,yard&since=door:1,yard:2")
    hello, samples_missed = await receive(viewer, 2)
    assert [stream["name"] for stream in hello["streams"]] == ["door", "yard"]
    assert (samples_missed["stream"], samples_missed["text"]) == ("door", "two")
    yard.final("three")
    assert (await receive(viewer, 1))[0]["stream"] == "yard"


async def test_all_streams_include_later_ones(server: Server) -> None:
    viewer = await server.viewer("?interim=0")
    await receive(viewer, 1)
    late = await server.streams.add("late", "rtsp://late")
    late.interim("not this")
    late.final("here")
    assert (await receive(viewer, 1))[0]["text"] == "here"


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("?stream=nobody", 404, "nobody"),
        ("?stream=door&since=99", 400, "since=99"),
        ("?stream=door&since=-1", 400, "since"),
        ("?stream=door&since=" + "9" * 5000, 400, "since"),
        ("?stream=door&since=door:x", 400, "since"),
        ("?interim=perhaps", 400, "interim"),
        ("?min_interval=nan", 400, "min_interval"),
    ],
)
async def test_invalid_request_is_refused_before_handshake(
    shared_server: Server, query: str, status: int, says: str
) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await shared_server.viewer(query)
    assert refusal.value.response.status_code == status
    assert says in json.loads(refusal.value.response.body)["detail"]
    assert shared_server.app.state.broadcaster.present == 0


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        (b"\x00\x01", 1003, "binary"),
        ("{not json", 1007, "JSON"),
        ("[" * 3000, 1007, "JSON"),
        ('{"type":"hello"}', 1008, "takes no messages"),
        ("x" * 10_000_000, 1009, ""),
    ],
)
async def test_client_message_closes_with_code_and_reason(
    server: Server, message: str | bytes, code: int, says: str
) -> None:
    other = await server.viewer()
    await receive(other, 1)
    viewer = await server.viewer()
    with pytest.raises(ConnectionClosed) as closed:
        await viewer.send(message)
        while True:
            await asyncio.wait_for(viewer.recv(), TIMEOUT_FACTOR)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    assert says in closed.value.rcvd.reason
    await until(lambda: server.app.state.broadcaster.present == 1)
    server.streams.get("door").final("nobody else noticed")
    assert (await receive(other, 1))[0]["text"] == "nobody else noticed"


async def test_removed_stream_closes_its_viewers(server: Server) -> None:
    viewer = await server.viewer("?stream=door")
    await receive(viewer, 1)
    await server.streams.remove("door")
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(viewer.recv(), TIMEOUT_FACTOR)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4404, "stream door was removed")


async def test_shutdown_closes_every_viewer_with_reason(server: Server) -> None:
    viewer = await server.viewer()
    await receive(viewer, 1)
    server.stop.set()
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(viewer.recv(), TIMEOUT_FACTOR)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the service is stopping")
    await asyncio.wait_for(server.task, TIMEOUT_FACTOR)


async def test_connection_limit_gives_retry_after(start: Start) -> None:
    server = await start(max_viewers=1)
    await server.viewer()
    with pytest.raises(InvalidStatus) as refusal:
        await server.viewer()
    assert refusal.value.response.status_code == 503
    assert refusal.value.response.headers["Retry-After"]


async def test_non_unicode_reason_does_not_break_feed(server: Server) -> None:
    viewer = await server.viewer("?stream=door")
    await receive(viewer, 1)
    server.streams.get("door").status(StreamState.FAILED, "caf\udce9.mp4 cannot be read")
    server.streams.get("door").final("still here")
    status, final = await receive(viewer, 2)
    assert status["reason"] == "caf\ufffd.mp4 cannot be read"
    assert final["text"] == "still here"
