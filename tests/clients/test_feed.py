"""`Feed`: every final is delivered once, also over lost connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

import pytest
from streamcap_client import Caption, Event, Extend, Feed, Gap, Hello, Other, RefusedError, Status
from websockets.asyncio.server import ServerConnection, serve

from streamcap.captions.event import StreamState
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import FakeStream, Server, Start, until


class Cutter:
    """A TCP relay in front of the service that resets its connections on request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            self.cut()
            server.close()
            await server.wait_closed()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
            self.cuts += 1
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.add(writer)
        try:
            await asyncio.wait(
                [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(ahead, writer))],
                return_when=asyncio.ALL_COMPLETED,
            )
        finally:
            self._writers.discard(writer)
            for one in (writer, back):
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


async def take(feed: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        return [await anext(feed) for _ in range(count)]


@pytest.mark.parametrize("url", ["", "http://", "ftp://host", "http://host:port", "host:99999", "http://:8642"])
def test_invalid_address(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a service"):
        Feed(url)


def test_address_without_scheme() -> None:
    assert Feed("localhost:8642", streams=["door"]).address() == "ws://localhost:8642/captions?stream=door"
    assert Feed("https://host/cams/").address() == "wss://host/cams/captions"


async def test_events_are_typed(server: Server) -> None:
    door = server.streams.get("door")
    async with Feed(server.url, streams=["door"]) as feed:
        events = aiter(feed)
        (hello,) = await take(events, 1)
        assert hello == Hello(1, hello.server_time, ("door",))
        door.status(StreamState.LIVE)
        door.interim("a man")
        door.final("a man opens a door")
        door.extend()
        status, interim, final, extend = await take(events, 4)
        assert status == Status("door", 1, "live", "")
        assert isinstance(interim, Caption)
        assert (interim.text, interim.is_final) == ("a man", False)
        assert isinstance(final, Caption)
        assert (final.text, final.id, final.latency_ms["total"]) == ("a man opens a door", interim.id, 9.7)
        assert extend == Extend("door", 4, final.id, 2.0)
        assert feed.seen == {"door": 4}


async def test_feed_resumes_in_new_process(server: Server) -> None:
    door = server.streams.get("door")
    for number in range(4):
        door.final(f"caption {number}")
    async with Feed(server.url, streams=["door"], since={"door": 2}) as feed:
        _, *rest = await take(aiter(feed), 3)
    assert [event.text for event in rest if isinstance(event, Caption)] == ["caption 2", "caption 3"]


async def talk(streams: list[FakeStream], cutter: Cutter, cuts: int) -> list[str]:
    """Publish finals and interims while connections are reset at random; returns the JSON texts of the finals."""
    dice = random.Random(7)
    sent: list[str] = []
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while cutter.cuts < cuts:
            stream = dice.choice(streams)
            for _ in range(dice.randrange(3)):
                stream.interim("so far")
            sent.append(stream.final(f"{stream.name} {len(sent)}").text)
            if dice.random() < 0.5:
                cutter.cut()
            await asyncio.sleep(dice.random() * 0.02)
    return sent


@pytest.mark.slow
async def test_finals_equal_file_through_disconnects(server: Server) -> None:
    streams = [server.streams.get("door"), await server.streams.add("yard", "rtsp://yard")]
    cutter = Cutter(server.port)
    received: list[Caption] = []
    async with cutter.listening() as port:
        feed = Feed(f"http://127.0.0.1:{port}", first_pause=0.005, longest_pause=0.02)

        async def read() -> None:
            async for event in feed:
                if isinstance(event, Caption) and event.is_final:
                    received.append(event)  # noqa: PERF401 - it is looked at while it grows

        reader = asyncio.create_task(read())
        await until(lambda: server.app.state.broadcaster.present == 1)
        # Before its first event of a stream a client has no number to resume from.
        for stream in streams:
            stream.status(StreamState.LIVE)
        await until(lambda: feed.seen == {"door": 1, "yard": 1})
        sent = await talk(streams, cutter, cuts=60)
        await until(lambda: len(received) >= len(sent))
        await feed.close()
        await asyncio.wait_for(reader, TIMEOUT_FACTOR)
    for stream in streams:
        lines = [json.loads(text) for text in sent if json.loads(text)["stream"] == stream.name]
        mine = [caption for caption in received if caption.stream == stream.name]
        assert [(caption.seq, caption.text) for caption in mine] == [(line["seq"], line["text"]) for line in lines]
    assert feed.reconnections >= 30


async def test_unknown_events_are_delivered_once() -> None:
    """A service of a later version has events that this client does not know. Every connection ends after one."""
    alert = json.dumps({"type": "alert", "stream": "door", "seq": 7, "state": "on"})
    addresses: list[str] = []

    async def answer(connection: ServerConnection) -> None:
        assert connection.request is not None
        addresses.append(connection.request.path)
        await connection.send(alert if len(addresses) < 3 else json.dumps({"type": "other"}))

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        Feed(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", first_pause=0.01) as feed,
    ):
        events = await take(aiter(feed), 2)
    assert [event.type for event in events if isinstance(event, Other)] == ["alert", "other"]
    assert addresses[:2] == ["/captions", "/captions?since=door:7"]


async def test_expired_events_are_a_gap(server: Server) -> None:
    door = server.streams.get("door")
    door.feed._max_stored = 1
    for number in range(3):
        door.final(f"caption {number}")
    async with Feed(server.url, streams=["door"], since={"door": 1}) as feed:
        _, gap, caption = await take(aiter(feed), 3)
    assert gap == Gap("door", 2, 2)
    assert isinstance(caption, Caption)


async def test_restarted_service_is_followed_from_now(server: Server) -> None:
    async with Feed(server.url, streams=["door"], since={"door": 500}, first_pause=0.01) as feed:
        events = aiter(feed)
        await take(events, 1)
        server.streams.get("door").final("new")
        (caption,) = await take(events, 1)
    assert isinstance(caption, Caption)
    assert caption.seq == 1


async def test_refusal_is_raised_and_not_retried(start: Start) -> None:
    server = await start(view_tokens=frozenset({"t"}))
    await server.streams.add("door", "rtsp://door")
    with pytest.raises(RefusedError, match="token") as refused:
        await take(aiter(Feed(server.url)), 1)
    assert refused.value.status == 401
    with pytest.raises(RefusedError, match="nobody"):
        await take(aiter(Feed(server.url, streams=["nobody"], token="t")), 1)
    async with Feed(server.url, streams=["door"], token="t") as feed:
        events = aiter(feed)
        await take(events, 1)
        await server.streams.remove("door")
        with pytest.raises(RefusedError, match="removed"):
            await take(events, 1)


@pytest.mark.slow
async def test_slow_reader_gets_a_gap(server: Server) -> None:
    door = server.streams.get("door")
    async with Feed(server.url, streams=["door"]) as feed:
        events = aiter(feed)
        await take(events, 1)
        (subscription,) = server.app.state.broadcaster.hub._subscriptions.values()
        text = "a long sentence about a man with a dog " * 1000
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while not subscription.statistics.finals_dropped:
                for _ in range(20):
                    door.final(text)
                await asyncio.sleep(0)
        door.final("the newest")
        gaps = []
        async with asyncio.timeout(TIMEOUT_FACTOR):
            async for event in events:
                if isinstance(event, Gap):
                    gaps.append(event)
                if isinstance(event, Caption) and event.text == "the newest":
                    break
    assert len(gaps) == 1
    assert feed.reconnections == 0


async def test_close_while_connecting_ends_iteration(server: Server) -> None:
    feed = Feed(server.url)
    ended = asyncio.create_task(anext(aiter(feed), None))
    await asyncio.sleep(0)
    await feed.close()
    assert await asyncio.wait_for(ended, TIMEOUT_FACTOR) is None


async def test_close_twice_ends_iteration(server: Server) -> None:
    feed = Feed(server.url)
    events = aiter(feed)
    await take(events, 1)
    ended = asyncio.create_task(anext(events, None))
    await asyncio.sleep(0)
    await feed.close()
    await feed.close()
    assert await asyncio.wait_for(ended, TIMEOUT_FACTOR) is None
