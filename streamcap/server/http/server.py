"""`listen` and `serve`: the listening socket, and uvicorn on the caller's event loop."""

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
from streamcap.server.http.log_filter import LogFilter
from streamcap.server.options import ServerOptions

log = logging.getLogger(__name__)

BACKLOG = 4096
# Time for running requests at shutdown, which takes at most 3 s in all.
GRACE_SECONDS = 2
# The kernel aborts the connection of a peer that acknowledges nothing or reads nothing for this long.
DEAD_PEER_MS = 30_000
# Limit for the head of a request, from the connection or the first byte of the next request.
HEAD_SECONDS = 20.0
OPEN_FILES = 65_536
# File descriptors reserved for caption files and cameras; a quarter of the limit if that is less.
RESERVED_FILES = 1024
# Interval of checks whether a connection can be accepted.
ACCEPT_RETRY_SECONDS = 0.1


def listen(options: ServerOptions) -> socket.socket:
    """The bound, listening socket; its port is `.getsockname()[1]`. Raises InputError."""
    try:
        addresses = socket.getaddrinfo(
            options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        reason = getattr(error, "strerror", None) or "not a valid host name"
        raise InputError(f"--host {options.host[:80]!r} cannot be resolved: {reason}") from error
    family, kind, protocol, _, address = addresses[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError, AttributeError):  # missing on some systems; accepted sockets inherit it
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
    """Raise the open-file limit to the system maximum, at most OPEN_FILES: a connection is a file, and the usual limit
    of 1,024 is below the maximum number of viewers.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class HeaderTimeoutH11(H11Protocol):
    """uvicorn's HTTP protocol with a timeout: a connection is aborted if the head of a request is not complete within
    HEAD_SECONDS. Each connection holds a file, and one that sends nothing needs no token.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn declares a stream transport
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
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._abort)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _abort(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()


def max_connection_files() -> float:
    """Maximum number of open files with which a connection is accepted."""
    try:
        import resource
    except ImportError:  # Windows
        return float("inf")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft - min(RESERVED_FILES, soft // 4)


def _open_files(listener: socket.socket) -> int:
    """A lower bound of the open files: the system assigns the lowest free number."""
    lowest = os.dup(listener.fileno())
    os.close(lowest)
    return lowest


class _Server(uvicorn.Server):
    """uvicorn's server with a limit of open files: above it, connections wait in the backlog."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._accepting = [asyncio.create_task(self._accept(listener), name="accept") for listener in sockets or []]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop, limit, paused = asyncio.get_running_loop(), max_connection_files(), False
        while True:
            try:
                if _open_files(listener) >= limit:
                    if not paused:
                        log.warning("%d files are open, the limit: new connections wait until others close", limit)
                    paused = True
                    await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                    continue
                paused = False
                connection, _ = await loop.sock_accept(listener)
                if self.config.ssl is None:
                    await loop.connect_accepted_socket(self._protocol, connection)
                else:
                    # A slow TLS handshake must not delay other connections. The file limit bounds the tasks.
                    handshake = asyncio.create_task(self._connect_tls(connection), name="tls-handshake")
                    self._handshakes.add(handshake)
                    handshake.add_done_callback(self._handshakes.discard)
            except OSError as error:
                log.debug("accepting a connection failed: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)

    async def _connect_tls(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, connection, ssl=self.config.ssl, ssl_handshake_timeout=HEAD_SECONDS
            )
        except OSError as error:
            log.debug("TLS handshake failed: %s", error)

    def _protocol(self) -> asyncio.Protocol:
        return HeaderTimeoutH11(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The caller handles signals and sets `stop`."""
        yield


async def serve(
    app: FastAPI, options: ServerOptions, stop: asyncio.Event, listener: socket.socket | None = None
) -> None:
    """Serve `app` until `stop` is set. Shutdown takes at most 3 s: feeds are closed with a reason, requests finish.

    `listener`: from `listen`, to know the port or get errors before. Raises InputError.
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
