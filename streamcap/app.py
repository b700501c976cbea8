"""`serve_streams`: the rooms put together, from first answer to end. While the model loads it answers already."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamcap.captions.hub import Hub
from streamcap.daemon_pool import DaemonPool
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.live import LiveModel
from streamcap.engine.outcome import Outcome
from streamcap.errors import LostCaptionsError
from streamcap.media.convert import Converter
from streamcap.media.sources import SourceOptions, open_source
from streamcap.media.sources.base import Source
from streamcap.server import http_server
from streamcap.server.app import create_app
from streamcap.server.options import ServerOptions
from streamcap.streams.options import StreamOptions
from streamcap.streams.stream_deps import StreamDeps
from streamcap.streams.stream_set import StreamSet

if TYPE_CHECKING:
    from streamcap.captioner import Captioner
    from streamcap.image_spec import Fit

log = logging.getLogger(__name__)

ENGINE_STOP_SECONDS = 1.0
# From the signal to the end of the process, whatever hangs.
END_SECONDS = 4.4
LOG_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `streamcap serve` was told."""

    sources: Sequence[tuple[str | None, str]]
    """Name, or None, and URL of each stream."""
    stream_options: StreamOptions
    server: ServerOptions
    engine: EngineOptions
    model: str
    """Name of the model, as given by `--model`."""
    fit: Fit | None
    """None: the model's own."""
    show: Callable[[Hub], Coroutine[None, None, None]] | None = None
    """Runs beside, as one more viewer: the terminal's."""


async def serve_streams(options: ServeOptions, load: Callable[[], Captioner], listener: socket.socket) -> bool:
    """Serve until SIGINT or SIGTERM.

    `load` runs on a thread of its own: meanwhile `/healthz` answers 200 and `/readyz` 503, and a signal ends it all.
    A signal also starts a timer that ends the process after END_SECONDS, whatever hangs, in this function or after it.
    Returns whether all threads that may be inside torch have ended. Raises StreamcapError: what `load` raised, a
    stream that cannot be added, or finals that were lost.
    """
    loop = asyncio.get_running_loop()
    stop, server_stop = asyncio.Event(), asyncio.Event()
    deadline = threading.Timer(END_SECONDS, leave_now)
    deadline.daemon = True
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stop, deadline)
    # Its default action ends the process, for example when the terminal closes.
    loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP: ignored; to change options, restart the service")
    streams = StreamSet(options.stream_options, Hub(time.monotonic, time.time))
    app = create_app(streams, options.server)
    serving = asyncio.create_task(http_server.serve(app, options.server, server_stop, listener), name="server")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    model_thread, stop_thread = DaemonPool("model"), DaemonPool("stop")
    loading = asyncio.create_task(model_thread.run(_load, load), name="model")
    showing = None if options.show is None else asyncio.create_task(options.show(streams.hub), name="show")
    engine: Engine | None = None
    try:
        first: tuple[asyncio.Future[Any], ...] = (loading, serving, stopping)
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            engine = _start_engine(streams, *loading.result(), options)
            adding = asyncio.create_task(_add(streams, options.sources), name="add-streams")
            await asyncio.wait((adding, serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if adding.done():
                adding.result()
                streams.ready = True
                log.info("listening on %s", _address(options.server, listener))
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            else:
                adding.cancel()
    finally:
        # Sources first, so that viewers still hear of their last captions; then the server, then the device.
        stopping.cancel()
        await streams.close()
        server_stop.set()
        ended = loading.done() if engine is None else await stop_thread.run(engine.stop, ENGINE_STOP_SECONDS)
        if showing is not None:
            await asyncio.wait((showing,), timeout=1)
            showing.cancel()
        await serving
        model_thread.close()
        stop_thread.close()
    if streams.dropped_finals:
        raise LostCaptionsError(
            f"{streams.dropped_finals} final captions are lost: the disk of --out refused them, or did not answer"
        )
    return ended


async def _add(streams: StreamSet, sources: Sequence[tuple[str | None, str]]) -> None:
    for name, url in sources:
        await streams.add(name, url)


def _load(load: Callable[[], Captioner]) -> tuple[Captioner, LiveModel]:
    """The model, and its first run, which would make the first caption late."""
    captioner = load()
    live = LiveModel(captioner)
    live.warm_up()
    return captioner, live


def _start_engine(streams: StreamSet, captioner: Captioner, live: LiveModel, options: ServeOptions) -> Engine:
    """Start the engine and let streams be added."""
    from streamcap.captioner.registry import describe_model

    loop = asyncio.get_running_loop()

    def deliver(outcomes: list[Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(streams.dispatch, outcomes)

    engine = Engine(live, options.engine, deliver)
    engine.statistics.drafts = live.draft_statistics
    image = captioner.image_spec if options.fit is None else replace(captioner.image_spec, fit=options.fit)
    deps = StreamDeps(
        options=options.stream_options,
        hub=streams.hub,
        open_source=_opener(options.stream_options),
        convert=Converter(image, captioner.clip_length),
        submit=engine.submit,
        clip_length=captioner.clip_length,
    )
    streams.model = options.model
    streams.model_description = describe_model(options.model, captioner.info["family"])
    streams.begin(deps, forget=engine.forget, engine=engine.statistics)
    engine.start()
    return engine


def _stop(stop: asyncio.Event, deadline: threading.Timer) -> None:
    if stop.is_set():
        # Asked twice: whatever still holds us up, go. Files are whole at any moment.
        os._exit(130)
    stop.set()
    deadline.start()


def leave_now() -> None:
    """End the process: something hangs. From any thread, even where the log hangs too."""
    line = threading.Thread(target=log.error, args=("a disk or a device does not answer: leaving without it",))
    line.daemon = True
    line.start()
    line.join(LOG_SECONDS)
    os._exit(1)


def _opener(stream_options: StreamOptions) -> Callable[[str], Source]:
    options = SourceOptions(
        open_timeout=stream_options.open_timeout,
        read_timeout=stream_options.read_timeout,
        keyframes_only=stream_options.keyframes_only,
        # As often as a caption is wanted, and often enough not to count as stalled.
        poll_interval=min(stream_options.every, stream_options.stall_after / 2),
    )
    return lambda url: open_source(url, options=options)


def _address(options: ServerOptions, listener: socket.socket) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "http" if options.tls_cert is None else "https"
    return f"{scheme}://{host}:{listener.getsockname()[1]}{options.root_path}/"
