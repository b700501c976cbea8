"""Serving: the listening socket, and uvicorn under the caller's loop until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamcap.errors import InputError
from streamcap.server.feed.websocket import WebsocketProtocol
from streamcap.server.log_filter import LogFilter
from streamcap.server.options import ServerOptions

log = logging.getLogger(__name__)

BACKLOG = 4096
# Requests that are still running when told to stop get so long; the whole end stays under 3 s.
GRACE_SECONDS = 2
# A peer that acknowledges nothing or reads nothing for so long is cut off by the kernel, whatever is in its buffers.
DEAD_PEER_MS = 30_000
# From the connection, or the first byte of its next request, to the end of the request's head.
HEAD_SECONDS = 20.0
OPEN_FILES = 65_536
# Files that connections do not get, or a quarter of what the system allows if that is less.
RESERVED_FILES = 1024
# Between two looks whether a connection can be accepted.
PAUSE_SECONDS = 0.1


def listen(options: ServerOptions) -> socket.socket:
    """The bound, listening socket; its port is `.getsockname()[1]`. Raises InputError with what to do."""
    try:
        found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the latter for a name that no host can have
        why = getattr(error, "strerror", None) or "it is no host's name"
        raise InputError(f"host {options.host[:80]!r} cannot be resolved: {why}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError, AttributeError):  # not every system has it; accepted sockets inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        where = f"{options.host}:{options.port}"
        raise InputError(
            f"cannot listen on {where}: {error.strerror or error}; choose another --port or --host"
        ) from error
    listener.setblocking(False)
    return listener


def allow_connections() -> None:
    """Let this process open as many files as the system lets it, up to OPEN_FILES. A connection is a file, and the
    usual 1,024 are fewer than the viewers the service takes."""
    try:
        import resource
    except ImportError:  # a system without such limits
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class HeaderTimeoutH11(H11Protocol):
    """uvicorn's HTTP, but a peer that does not finish the head of a request within HEAD_SECONDS is cut off: each holds
    a file, and whoever sends nothing needs no token for that."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # of a stream, as uvicorn declares
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_watching()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _stop_watching(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cut(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()


def max_connection_files() -> float:
    """How many files may be open when a connection is taken; the rest is for caption files and cameras."""
    try:
        import resource
    except ImportError:  # a system without such limits
        return float("inf")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft - min(RESERVED_FILES, soft // 4)


def _open_files(listener: socket.socket) -> int:
    """At least so many: the system gives out the lowest number that is free."""
    lowest = os.dup(listener.fileno())
    os.close(lowest)
    return lowest


class _Server(uvicorn.Server):
    """uvicorn's server, but it accepts no connection that would take the last files: those wait in the backlog."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._accepting = [asyncio.create_task(self._accept(one), name="accept") for one in sockets or []]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop, limit, paused = asyncio.get_running_loop(), max_connection_files(), False
        while True:
            try:
                if _open_files(listener) >= limit:
                    if not paused:
                        log.warning("%d files are open: new connections wait until some are closed", limit)
                    paused = True
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                paused = False
                connection, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError as error:
                log.debug("a connection was not accepted: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)

    def _protocol(self) -> asyncio.Protocol:
        return HeaderTimeoutH11(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the caller's, who sets `stop`."""
        yield


async def serve(
    app: FastAPI, options: ServerOptions, stop: asyncio.Event, listener: socket.socket | None = None
) -> None:
    """Serve `app` until `stop` is set, then end within 3 s: feeds are closed with the reason, requests finished.

    `listener`: from `listen`, where the caller wants to know the port or have errors first. Raises InputError.
    """
    listener = listener if listener is not None else listen(options)
    config = uvicorn.Config(
        app,
        http=HeaderTimeoutH11,
        ws=WebsocketProtocol,
        ws_max_size=options.max_message_bytes,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=log.isEnabledFor(logging.DEBUG),
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        lifespan="on",
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    log_filter = LogFilter(options.view_tokens | options.publish_tokens)
    for name in ("uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addFilter(log_filter)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        app.state.broadcaster.hub.close("the service is stopping")
        server.should_exit = True
        await asyncio.shield(serving)
        listener.close()
        for name in ("uvicorn.access", "uvicorn.error"):
            logging.getLogger(name).removeFilter(log_filter)
