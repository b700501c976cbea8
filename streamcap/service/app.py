"""`serve_streams`: one running service, from the first HTTP response to the end. Serves HTTP while the model loads."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamcap.captions.hub import Hub
from streamcap.config.config import Config, StreamConfig
from streamcap.config.reload import Reloader
from streamcap.config.state_file import StateFile
from streamcap.daemon_pool import DaemonPool
from streamcap.engine.engine import EngineOptions
from streamcap.engine.model_settings import ModelSettings
from streamcap.errors import LostCaptionsError
from streamcap.media.sources import SourceOptions, open_source
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.base import Source
from streamcap.server.app import create_app
from streamcap.server.http import server as http_server
from streamcap.server.options import ServerOptions
from streamcap.service.changes import ServiceChanges, Wanted
from streamcap.service.heap import begin_collections, trim_heap_periodically
from streamcap.service.models import LoadedModel, ModelService, complete, load_models
from streamcap.streams.options import StreamOptions
from streamcap.streams.storage.caption_store import CaptionStore
from streamcap.streams.storage.file_retention import FileRetention
from streamcap.streams.stream_deps import StreamDeps
from streamcap.streams.stream_set import StreamSet, log_failure

if TYPE_CHECKING:
    from streamcap.captioner import Captioner

log = logging.getLogger(__name__)

ENGINE_STOP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of `streamcap serve`."""

    sources: Sequence[tuple[str | None, str]]
    """Name (or None) and URL of each stream."""
    stream_options: StreamOptions
    server: ServerOptions
    engine: EngineOptions
    models: Mapping[str, ModelSettings]
    """By name, at least one. The first is that of streams that name none."""
    streams: Mapping[str, StreamConfig] = field(default_factory=dict)
    """Streams by name, with their settings; added before `sources`."""
    reloader: Reloader | None = None
    """Of the configuration file."""
    wanted: Callable[[Config], Wanted] | None = None
    """What a changed configuration file and the command line say about the service."""
    state: StateFile | None = None
    """Remembers the streams that HTTP clients change."""
    show: Callable[[Hub], Coroutine[None, None, None]] | None = None
    """Coroutine that shows captions in the terminal."""


async def serve_streams(
    options: ServeOptions,
    load: Callable[[ModelSettings], Captioner],
    listener: socket.socket,
    *,
    on_signal: Callable[[], None] = lambda: None,
) -> bool:
    """Serve until SIGINT or SIGTERM.

    `load` loads a local model, on its own thread. Meanwhile `/healthz` returns 200, `/readyz` returns 503, and a
    signal stops the service. `on_signal` is called at the first signal, so that the owner of the process can bound its
    end. Returns whether all threads that may be inside torch have ended. Raises StreamcapError: the error of `load`, a
    stream that cannot be added, or lost finals.
    """
    loop = asyncio.get_running_loop()
    stop, server_stop = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stop, on_signal)
    # Its default action ends the process, for example when the terminal closes.
    loop.add_signal_handler(signal.SIGHUP, on_hangup, options.reloader)
    models = complete(options.models)
    streams = StreamSet(options.stream_options, Hub(time.monotonic, time.time))
    app = create_app(streams, options.server, reloader=options.reloader, state=options.state)
    serving = asyncio.create_task(http_server.serve(app, options.server, server_stop, listener), name="server")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    model_thread, stop_thread = DaemonPool("model"), DaemonPool("stop")
    loading = asyncio.create_task(model_thread.run(load_models, models, load), name="model")
    watching = _background(streams.watch_load(), "load")
    trimming = _background(trim_heap_periodically(), "heap")
    showing = None if options.show is None else _background(options.show(streams.hub), "show")
    service: ModelService | None = None
    # Tasks that begin once all streams are there.
    later: list[asyncio.Task[None]] = []
    try:
        first: tuple[asyncio.Future[Any], ...] = (loading, serving, stopping)
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            service = start_models(streams, models, loading.result(), options)
            begin_collections()
            adding = asyncio.create_task(_add(streams, options), name="add-streams")
            await asyncio.wait((adding, serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if adding.done():
                adding.result()
                streams.ready = True
                if options.reloader is not None:
                    changes = None if options.wanted is None else ServiceChanges(options.wanted, streams, service)
                    later.append(_background(options.reloader.watch(streams, changes), "reload"))
                if (out := options.stream_options.out) is not None:
                    retention = FileRetention(out, options.stream_options.rotation)
                    later.append(_background(retention.watch(streams.names), "retention"))
                log.info("listening on %s", _address(options.server, listener))
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            else:
                adding.cancel()
    finally:
        # First the sources, so that viewers receive the last captions; then the server, then the device.
        stopping.cancel()
        watching.cancel()
        trimming.cancel()
        for task in later:
            task.cancel()
        await streams.close()
        server_stop.set()
        ended = loading.done()
        if service is not None:
            await service.close_remotes()
            ended = await stop_thread.run(service.engine.stop, ENGINE_STOP_SECONDS)
        if showing is not None:
            await asyncio.wait((showing,), timeout=1)
            showing.cancel()
        await serving
        model_thread.close()
        stop_thread.close()
        if options.state is not None:
            options.state.close()
    if streams.dropped_finals:
        raise LostCaptionsError(
            f"{streams.dropped_finals} final captions are lost: the disk of --out refused them, or did not answer"
        )
    return ended


def _background(coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    """A task that the service can do without: it is logged if it fails."""
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(log_failure)
    return task


async def _add(streams: StreamSet, options: ServeOptions) -> None:
    """All at once, so that a slow disk of one stream does not delay the others. Raises StreamcapError."""
    try:
        async with asyncio.TaskGroup() as group:
            for stream, entry in options.streams.items():
                group.create_task(streams.add(stream, entry.url, entry.settings, keep_failed=True, scope=entry.scope))
            for name, url in options.sources:
                group.create_task(streams.add(name, url, keep_failed=True))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def start_models(
    streams: StreamSet,
    models: Mapping[str, ModelSettings],
    loaded: Mapping[str, LoadedModel],
    options: ServeOptions,
    store: Callable[[str], CaptionStore] | None = None,
) -> ModelService:
    """Start the engine and let streams be added. `store`: as in StreamDeps."""
    service = ModelService(models, next(iter(options.models)), loaded, options.engine, streams.dispatch)
    deps = StreamDeps(
        options=options.stream_options,
        hub=streams.hub,
        open_source=source_opener(options.stream_options),
        models=service.served,
        submit=service.engine.submit,
        store=store,
    )
    streams.begin(deps, forget=service.forget, engine=service.engine.statistics)
    service.engine.start()
    return service


def on_hangup(reloader: Reloader | None) -> None:
    """SIGHUP."""
    if reloader is None:
        log.info("SIGHUP: ignored; without --config there is nothing to reload")
    else:
        reloader.request()


def _stop(stop: asyncio.Event, on_signal: Callable[[], None]) -> None:
    if stop.is_set():
        # A second signal: end at once. Files are complete at any moment.
        os._exit(130)
    stop.set()
    on_signal()


def source_opener(stream_options: StreamOptions) -> Callable[[str, HostScope], Source]:
    """What `StreamDeps.open_source` needs."""

    def source_of(url: str, scope: HostScope) -> Source:
        options = SourceOptions(
            open_timeout=stream_options.open_timeout,
            read_timeout=stream_options.read_timeout,
            hwaccel=stream_options.hwaccel,
            # Often enough not to be stalled.
            poll_interval=stream_options.stall_after / 2,
            scope=scope,
        )
        return open_source(url, options=options)

    return source_of


def _address(options: ServerOptions, listener: socket.socket) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "http" if options.tls_cert is None else "https"
    return f"{scheme}://{host}:{listener.getsockname()[1]}{options.root_path}/"
