"""`run_node`: one process of a cluster, in one or more of the roles ingest, engine, gateway and recorder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

import streamcap
from streamcap.captions.hub import Hub
from streamcap.cluster.assignment.nodes import CpuMeter, NodeDirectory, NodeInfo
from streamcap.cluster.assignment.registry import StreamRegistry
from streamcap.cluster.engines.engine_service import EngineService
from streamcap.cluster.engines.model_directory import ModelDirectory, ModelInfo
from streamcap.cluster.engines.remote_engine import RemoteEngine
from streamcap.cluster.gateway.gateway import Gateway
from streamcap.cluster.gateway.gateway_streams import GatewayStreams
from streamcap.cluster.ingest import Ingest
from streamcap.cluster.jetstream.connection import ClusterError, ClusterOptions, Connection, connect
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.metrics import ClusterMetrics
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.recorder import Recorder
from streamcap.cluster.tasks import end_tasks
from streamcap.daemon_pool import DaemonPool
from streamcap.engine.model_settings import ModelSettings
from streamcap.errors import InputError, StreamcapError
from streamcap.server.app import create_app
from streamcap.server.errors import answer
from streamcap.server.http import server as http_server
from streamcap.server.http.path_prefix import route_path
from streamcap.service.app import ENGINE_STOP_SECONDS, ServeOptions, on_hangup, source_opener, start_models
from streamcap.service.heap import begin_collections, trim_heap_periodically
from streamcap.service.models import ModelService, complete, load_models
from streamcap.streams.settings import StreamSettings
from streamcap.streams.storage.file_retention import FileRetention
from streamcap.streams.stream import Stream
from streamcap.streams.stream_deps import StreamDeps
from streamcap.streams.stream_set import DEFAULT_SETTINGS, DuplicateStreamError, StreamSet

if TYPE_CHECKING:
    from streamcap.captioner import Captioner

    Load = Callable[[ModelSettings], Captioner]
    Task = asyncio.Task[None]

log = logging.getLogger(__name__)

ROLES = ("ingest", "engine", "gateway", "recorder")
END_SECONDS = 2.0
RETRY_SECONDS = 0.5
DRAIN_SECONDS = 15.0
"""How long a node that ends waits until its streams are handed over."""
ENGINE_DRAIN_SECONDS = 2.0
"""How long an engine that ends answers what it has."""
STREAMS_PER_CPU = 25
"""Cameras of 1080p, H.264, 25 frames a second that one core decodes: docs/cluster.md."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Options of `streamcap node`."""

    serve: ServeOptions
    cluster: ClusterOptions
    roles: frozenset[str]
    name: str = ""
    """For people; empty: the host's name. A node's id is this and a random part."""
    capacity: int | None = None
    """Maximum number of streams; None: STREAMS_PER_CPU for each CPU."""
    url: str = ""
    """Where clients reach its gateway; empty: the address that it listens on."""
    recorder: RecorderOptions | None = None
    """Of the role recorder, which needs them."""

    def __post_init__(self) -> None:
        if not self.roles or not self.roles <= set(ROLES):
            raise InputError(f"--roles {','.join(sorted(self.roles))[:80]!r}: use some of {', '.join(ROLES)}")
        if "recorder" in self.roles and self.recorder is None:
            raise InputError("--roles recorder: needs --out DIR, where it writes the caption files")
        if "recorder" not in self.roles and self.recorder is not None:
            raise InputError("--out: only nodes with the role recorder write caption files; add it to --roles")
        if self.capacity is not None and not 1 <= self.capacity <= 10_000:
            raise InputError(f"--capacity {self.capacity}: use 1 to 10000")


class Node:
    """The parts of one process. `run` until a signal."""

    def __init__(self, options: NodeOptions, connection: Connection, listener: socket.socket) -> None:
        self.options = options
        self.id = f"{options.name or socket.gethostname()}-{uuid.uuid4().hex[:6]}"
        self._connection = connection
        self._listener = listener
        self.url = self._url()
        """Where clients reach this node."""
        self._cpu_meter, self._cpu = CpuMeter(), 0.0
        self.registry = StreamRegistry(connection)
        self.nodes = NodeDirectory(connection, self._describe)
        # The streams that this node runs publish to a hub of their own, which has no viewers: those see only what
        # JetStream has acknowledged.
        self.streams = StreamSet(replace(options.serve.stream_options, out=None), Hub(time.monotonic, time.time))
        self.live = LiveFeed(connection, self.streams.hub)
        self.ingest = Ingest(
            connection, self.id, self.streams, self.registry, self.nodes, self.live, cpu=lambda: self._cpu
        )
        self.recorder = (
            None
            if options.recorder is None
            else Recorder(connection, self.id, options.recorder, self.registry, self.nodes, cpu=lambda: self._cpu)
        )
        self.gateway_streams = GatewayStreams(
            options.serve.stream_options,
            Hub(time.monotonic, time.time),
            self.registry,
            self.nodes,
            self.id,
            local=self._local,
            model=next(iter(options.serve.models)),
            runs_streams="ingest" in options.roles,
        )
        self.gateway = Gateway(
            connection,
            self.gateway_streams.hub,
            add=self.gateway_streams.begin_feed,
            apply=self.gateway_streams.apply,
        )
        self.registry.observers.append(self._forget_removed)
        self.metrics = ClusterMetrics(
            connection, self.registry, self.nodes, self.ingest, self.live, self.gateway, self.recorder
        )
        self._models: ModelService | None = None
        self._engine: EngineService | None = None

    async def run(self, load: Load, stop: asyncio.Event) -> bool:
        """Until `stop` is set. Returns whether all threads that may be inside torch have ended."""
        options, roles = self.options, self.options.roles
        shown = self.gateway_streams if "gateway" in roles else self.streams
        reloader = options.serve.reloader
        app = create_app(shown, options.serve.server, reloader=reloader, more_metrics=self.metrics.collect)
        if "gateway" not in roles:
            app.add_middleware(NoGateway, node=self.id)
        server_stop = asyncio.Event()
        server = http_server.serve(app, options.serve.server, server_stop, self._listener)
        serving = asyncio.create_task(server, name="server")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        model_thread, stop_thread = DaemonPool("model"), DaemonPool("stop")
        tasks = [
            asyncio.create_task(self.registry.run(), name="registry"),
            asyncio.create_task(self.nodes.run(), name="nodes"),
            asyncio.create_task(self._measure(), name="cpu"),
            # A gateway keeps the newest events of all streams.
            asyncio.create_task(trim_heap_periodically(collect_cycles="gateway" not in options.roles), name="heap"),
        ]
        starting = asyncio.create_task(self._start(load, model_thread, shown, tasks), name="start")
        ended = True
        try:
            await asyncio.wait((starting, serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                watched = [serving, stopping, *tasks]
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # none of them ends by itself
        finally:
            stopping.cancel()
            starting.cancel()
            shown.ready = False
            if self._engine is not None:
                await self._engine.drain(ENGINE_DRAIN_SECONDS)
            # The streams first, so that other nodes run them when this one's viewers come to them.
            drains = [self.ingest.drain(DRAIN_SECONDS)]
            if self.recorder is not None:
                drains.append(self.recorder.drain(DRAIN_SECONDS))
            await asyncio.gather(*drains)
            await self.streams.close()
            await self.gateway_streams.close()
            server_stop.set()
            if self._models is not None:
                await self._models.close_remotes()
                ended = await stop_thread.run(self._models.engine.stop, ENGINE_STOP_SECONDS)
            await self.nodes.leave()
            await end_tasks(tasks)
            await serving
            model_thread.close()
            stop_thread.close()
        return ended

    async def _start(self, load: Load, model_thread: DaemonPool, shown: StreamSet, tasks: list[Task]) -> None:
        roles = self.options.roles
        if "engine" in roles:
            options, models = self.options.serve, complete(self.options.serve.models)
            loaded = await model_thread.run(load_models, models, load)
            self._models = start_models(self.streams, models, loaded, options, self.ingest.open_store)
            self._engine = EngineService(
                self._connection, self.id, self._models.engine, self._announced(models, self._models)
            )
            self.metrics.engine = self._engine
            tasks.append(asyncio.create_task(self._engine.run(), name="engine"))
            # Where the engines are on other machines, late captions say nothing about this one.
            tasks.append(asyncio.create_task(self.streams.watch_load(), name="load"))
        elif "ingest" in roles:
            tasks += self._ask_engines()
        self.gateway_streams.engine = self.streams.engine
        begin_collections()
        await self.registry.ready.wait()
        if "gateway" in roles:
            tasks.append(asyncio.create_task(self.gateway.run(), name="gateway"))
            await self.gateway.ready.wait()
        if "ingest" in roles:
            tasks.append(asyncio.create_task(self.live.run(), name="live"))
            tasks.append(asyncio.create_task(self.ingest.run(), name="ingest"))
        if self.recorder is not None:
            tasks.append(asyncio.create_task(self.recorder.run(), name="recorder"))
            if (rotation := self.recorder.options.rotation).keep_days is not None:
                retention, recordings = FileRetention(self.recorder.options.out, rotation), self.recorder.recordings
                tasks.append(asyncio.create_task(retention.watch(lambda: list(recordings)), name="retention"))
        shown.ready = self.gateway_streams.ready = True
        for name, url in self.options.serve.sources:
            await self._add(name, url, DEFAULT_SETTINGS)
        for name, stream in self.options.serve.streams.items():
            await self._add(name, stream.url, stream.settings)
        if (reloader := self.options.serve.reloader) is not None:
            # Streams only: what else the file says is read at the start.
            tasks.append(asyncio.create_task(reloader.watch(self.gateway_streams), name="reload"))
        log.info("node %s: listening on %s", self.id, self.url)

    async def _add(self, name: str | None, url: str, settings: StreamSettings) -> None:
        """Add a stream of the command line or the file; wait while JetStream elects a leader. Raises InputError."""
        warned = False
        while True:
            try:
                await self.gateway_streams.add(name, url, settings)
            except DuplicateStreamError:
                log.debug("stream %s is known to the cluster, which keeps its own configuration", name)
            except ClusterError as error:
                if not warned:
                    log.warning("stream %s is not added yet: %s", name, error)
                warned = True
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return

    def _announced(self, models: Mapping[str, ModelSettings], service: ModelService) -> dict[str, ModelInfo]:
        gate = service.engine.options.gate
        return {
            name: ModelInfo.of(service.served.get(name), gate)
            for name, settings in models.items()
            if not settings.is_remote
        }

    def _ask_engines(self) -> list[Task]:
        """Let the streams of this node use the engines of others."""
        options, connection = self.options.serve, self._connection
        models = ModelDirectory(connection, self._follow_models)
        engine = RemoteEngine(connection, self.id, models, next(iter(options.models)), self.streams.dispatch)
        self.metrics.dispatcher = engine.dispatcher
        deps = StreamDeps(
            options=replace(options.stream_options, out=None),
            hub=self.streams.hub,
            open_source=source_opener(options.stream_options),
            models=engine.served,
            submit=engine.submit,
            store=self.ingest.open_store,
        )
        self.streams.begin(deps, forget=engine.forget, engine=engine.statistics)
        return [
            asyncio.create_task(models.run(), name="models"),
            asyncio.create_task(engine.run(), name="remote-engine"),
        ]

    def _forget_removed(self, name: str) -> None:
        if name not in self.registry.streams:
            self.gateway.forget(name)

    def _follow_models(self) -> None:
        """A model takes other samples: the streams keep the frames for them."""
        for name in self.streams.names():
            self.streams.change(name, self.streams.get(name).settings)

    def _url(self) -> str:
        server, port = self.options.serve.server, self._listener.getsockname()[1]
        host = f"[{server.host}]" if ":" in server.host else server.host
        scheme = "http" if server.tls_cert is None else "https"
        return self.options.url or f"{scheme}://{host}:{port}{server.root_path}/"

    def _local(self, name: str) -> Stream | None:
        return self.streams.get(name) if name in self.streams.names() else None

    def _describe(self) -> NodeInfo:
        roles = self.options.roles
        return NodeInfo(
            id=self.id,
            host=socket.gethostname(),
            site=self.options.cluster.site,
            roles=tuple(sorted(roles)),
            url=self.url if "gateway" in roles else "",
            capacity=self.options.capacity or STREAMS_PER_CPU * (os.cpu_count() or 1),
            streams=len(self.ingest.owned),
            recorded=0 if self.recorder is None else len(self.recorder.owned),
            cpu=round(self._cpu, 3),
            starting=any(
                part is not None and not part.is_taking
                for part in (self.ingest if "ingest" in roles else None, self.recorder)
            ),
            draining=any(part is not None and part.draining for part in (self.ingest, self.recorder, self._engine)),
            model=next(iter(self.options.serve.models)) if "engine" in roles else "",
            credits=0 if self._engine is None else self._engine.free,
            rows_per_second=0.0 if self._engine is None else round(self._engine.rows_per_second, 1),
            version=streamcap.__version__,
        )

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(2.0)
            self._cpu = 0.5 * self._cpu + 0.5 * self._cpu_meter.read()


async def run_node(
    options: NodeOptions,
    load: Load,
    listener: socket.socket,
    *,
    on_signal: Callable[[], None] = lambda: None,
) -> bool:
    """Run one node until SIGINT or SIGTERM; then it hands its streams over. Raises StreamcapError."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        if stop.is_set():
            os._exit(130)  # a second signal: another node takes over after a few seconds
        stop.set()
        on_signal()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, on_hangup, options.serve.reloader)
    connection = await connect(options.cluster, options.name or socket.gethostname())
    try:
        return await Node(options, connection, listener).run(load, stop)
    except Exception as error:
        if not isinstance(error, StreamcapError):
            log.exception("the node failed")
        raise
    finally:
        await connection.close()
        with contextlib.suppress(TimeoutError):  # the owner of the process bounds its end
            async with asyncio.timeout(END_SECONDS):
                await end_tasks(asyncio.all_tasks() - {asyncio.current_task()})


class NoGateway:
    """ASGI middleware of a node without the role gateway: health and metrics only."""

    def __init__(self, app: ASGIApp, node: str) -> None:
        self._app = app
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or route_path(scope) in ("/healthz", "/readyz", "/metrics"):
            await self._app(scope, receive, send)
        else:
            await answer(404, f"node {self._node} is no gateway: ask another node")(scope, receive, send)
