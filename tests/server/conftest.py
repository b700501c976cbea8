"""The real application on a real socket, with streams controlled by the test."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.event import Event, Payload, Status, StreamState
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub, UnknownStreamError
from streamcap.captions.track import CaptionTrack, SampleTime
from streamcap.engine.statistics import EngineStatistics
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.push import PushSource
from streamcap.server import source_policy
from streamcap.server.app import create_app
from streamcap.server.http.server import listen, serve
from streamcap.server.options import ServerOptions
from streamcap.streams.options import StreamOptions, check_name
from streamcap.streams.overload import OverloadDetector, StreamLoad
from streamcap.streams.settings import StreamSettings
from streamcap.streams.snapshot import StreamSnapshot
from streamcap.streams.stream_set import DuplicateStreamError
from testbed.timeouts import TIMEOUT_FACTOR


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all tests, because they share a browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


LATENCY = Latency(ingest=3.1, queue=0.4, encode=2.2, decode=4.0, total=9.7)


class FakeStream:
    """A stream whose captions come from the test."""

    def __init__(self, hub: Hub, name: str, url: str, settings: StreamSettings) -> None:
        self.name, self.url = name, url
        self.change(settings)
        self.state, self.reason = StreamState.CONNECTING, ""
        self.track = CaptionTrack(name, every=self.every)
        self.feed = EventLog(name)
        self.frame: Any = None
        self.scope = HostScope.ANY
        self.source: Any = PushSource(url) if url.startswith("whip:") else None
        self.lag = 0.0
        self.effective_every = self.every
        self._hub = hub
        self._time = 0.0
        hub.add(self.feed)

    def change(self, settings: StreamSettings) -> None:
        self.settings = settings
        self.every = settings.every or 1.0

    def publish(self, payload: Payload) -> Event:
        return self._hub.publish(payload)

    def status(self, state: StreamState, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.publish(Status(self.name, state, reason))

    def at(self) -> SampleTime:
        return SampleTime(0, self._time, 1_795_000_000.0 + self._time, "arrival")

    def interim(self, text: str) -> Caption:
        caption = self.track.interim(self.at(), text, LATENCY)
        self.publish(caption)
        return caption

    def final(self, text: str, confidence: float | None = None) -> Event:
        event = self.publish(self.track.final(self.at(), text, -0.4, LATENCY, confidence))
        self._time += self.every
        return event

    def extend(self) -> None:
        extend = self.track.extend(self.at())
        assert extend is not None
        self._time += self.every
        self.publish(extend)

    def newest_frame(self) -> Any:
        return self.frame

    def watch(self) -> None:
        pass

    def unwatch(self) -> None:
        pass

    def elsewhere(self) -> str | None:
        return None

    def push_source(self) -> Any:
        return self.source

    def view(self) -> StreamSnapshot:
        last = self.track.last
        return StreamSnapshot(
            name=self.name,
            url=self.url,
            every=self.every,
            state=self.state.value,
            reason=self.reason,
            width=1280,
            height=720,
            frames_per_second=30.0,
            codec="h264",
            epoch=0,
            frames=100,
            sampled=7,
            captions=5,
            extended=1,
            reconnections=0,
            source={"decode_errors": 2},
            last_caption=None if last is None else last.as_json(),
            samples_missed=4,
            frame_conversion_errors=3,
            files_dropped=2,
            lag=self.lag,
            late=StreamLoad(self.every, self.lag).late,
            effective_every=self.effective_every,
            caption_age=0.5,
            model=self.settings.model or "mini",
            model_description=f"model {self.settings.model or 'mini'}: drawn scenes",
            **{key: value for key, value in self.settings.as_json().items() if key not in ("every", "model")},
        )


class FakeStreams:
    """Replaces `streamcap.streams.stream_set.StreamSet`."""

    def __init__(self) -> None:
        self.hub = Hub(monotonic=time.monotonic, wall=time.time)
        self.options = StreamOptions()
        self.ready = True
        self.engine = EngineStatistics()
        self.overload = OverloadDetector(time.monotonic)
        self.loop_delay = 0.0
        self.models = ("mini",)
        self.streams: dict[str, FakeStream] = {}
        self.on_add: Callable[[FakeStream], None] = lambda stream: None

    def names(self) -> list[str]:
        return list(self.streams)

    def runs(self, name: str) -> bool:
        return name in self.streams

    def get(self, name: str) -> FakeStream:
        try:
            return self.streams[name]
        except KeyError:
            raise UnknownStreamError(f"no stream is named {name[:80]!r}") from None

    async def add(
        self,
        name: str | None,
        url: str,
        settings: StreamSettings | None = None,
        *,
        scope: HostScope = HostScope.ANY,
    ) -> FakeStream:
        name = check_name(name if name is not None else "camera")
        if name in self.streams:
            raise DuplicateStreamError(f"there is a stream named {name} already; choose another name")
        stream = self.streams[name] = FakeStream(self.hub, name, url, settings or StreamSettings())
        stream.scope = scope
        self.on_add(stream)
        return stream

    async def remove(self, name: str) -> None:
        self.get(name)
        del self.streams[name]
        self.hub.remove(name)

    async def adopt(self, name: str) -> FakeStream:
        return self.get(name)

    async def update(self, name: str, settings: StreamSettings) -> FakeStream:
        return self.change(name, settings)

    def change(self, name: str, settings: StreamSettings) -> FakeStream:
        self.get(name).change(settings)
        return self.get(name)

    async def replace(
        self,
        name: str,
        *,
        url: str | None = None,
        settings: StreamSettings | None = None,
        scope: HostScope = HostScope.ANY,
    ) -> FakeStream:
        old = self.get(name)
        await self.remove(name)
        return await self.add(name, url or old.url, settings or old.settings, scope=scope)

    async def close(self) -> None:
        self.hub.close("the service is stopping")


@dataclass
class Server:
    """A running service: its port, streams and clients."""

    port: int
    streams: FakeStreams
    app: Any
    stop: asyncio.Event
    task: asyncio.Task[None]
    http: httpx.AsyncClient
    sockets: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def viewer(self, query: str = "", **options: Any) -> ClientConnection:
        """A websocket on `/captions`, closed with the test."""
        url = f"ws://127.0.0.1:{self.port}/captions{query}"
        return await self.sockets.enter_async_context(connect(url, compression=None, **options))


async def receive(viewer: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next `count` messages."""
    async with asyncio.timeout(TIMEOUT_FACTOR):
        return [json.loads(await viewer.recv()) for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state."""
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not condition():
            await asyncio.sleep(0.01)


# Made once: a client would load all certificates anew, which takes as long as most tests.
TRUST = ssl.create_default_context()
PUBLIC_ADDRESS = "93.184.216.34"
Start = Callable[..., Awaitable[Server]]


def resolve_without_network(host: str, port: int) -> list[str]:
    """Every name is a public host; an address is itself."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    return [PUBLIC_ADDRESS]


@pytest.fixture(autouse=True)
def no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_policy, "resolve", resolve_without_network)


@contextlib.asynccontextmanager
async def starting() -> AsyncIterator[Start]:
    """Start services on free ports; all are stopped at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_server(*, reloader: Any = None, state: Any = None, **options: Any) -> Server:
            checked = ServerOptions(port=0, **options)
            streams = FakeStreams()
            app = create_app(streams, checked, reloader=reloader, state=state)  # type: ignore[arg-type]
            listener = listen(checked)
            port = listener.getsockname()[1]
            stop = asyncio.Event()
            task = asyncio.create_task(serve(app, checked, stop, listener))
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_FACTOR, verify=TRUST)
            )
            server = Server(port, streams, app, stop, task, http)

            async def end() -> None:
                stop.set()
                await asyncio.wait_for(task, TIMEOUT_FACTOR)

            stack.push_async_callback(end)
            await stack.enter_async_context(server.sockets)
            async with asyncio.timeout(TIMEOUT_FACTOR):
                if checked.tls_cert is None:
                    await http.get("/healthz")
            return server

        yield start_server


@pytest_asyncio.fixture(loop_scope="session")
async def start() -> AsyncIterator[Start]:
    """Start services on free ports; all are stopped at the end of the test."""
    async with starting() as start:
        yield start


async def with_door(start: Start) -> Server:
    server = await start()
    await server.streams.add("door", "rtsp://user:***@camera/1")
    return server


@pytest_asyncio.fixture(loop_scope="session")
async def server(start: Start) -> Server:
    """An open service on loopback with one stream, `door`."""
    return await with_door(start)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def shared_server() -> AsyncIterator[Server]:
    """A `server` for all tests of a module whose requests are refused and change nothing."""
    async with starting() as start:
        yield await with_door(start)
