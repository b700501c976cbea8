"""Serving: the listening socket, and uvicorn under the caller's loop until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from streamcap.errors import InputError
from streamcap.redact import redact
from streamcap.server.options import ServerOptions
from streamcap.server.push import PushProtocol

log = logging.getLogger(__name__)

BACKLOG = 4096
# Requests that are still running when told to stop get so long; the whole end stays under 3 s.
GRACE_SECONDS = 2
# A peer that acknowledges nothing or reads nothing for so long is cut off by the kernel, whatever is in its buffers.
DEAD_PEER_MS = 30_000
# Between two equal warnings of the HTTP server.
QUIET_SECONDS = 60.0


def listen(options: ServerOptions) -> socket.socket:
    """The bound, listening socket; its port is `.getsockname()[1]`. Raises InputError with what to do."""
    try:
        found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InputError(f"host {options.host!r} cannot be resolved: {error.strerror or error}") from error
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


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the caller's, who sets `stop`."""
        yield


class _Redacting(logging.Filter):
    """Tokens in URLs stay out of uvicorn's lines, and a line that comes again within `QUIET_SECONDS` is not printed:
    who connects a thousand times a second and speaks no HTTP must not fill the disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[str, float] = ("", 0.0)

    def filter(self, record: logging.LogRecord) -> bool:
        text, at = self._last
        if record.levelno >= logging.WARNING and record.exc_info is None:
            if record.getMessage() == text and record.created - at < QUIET_SECONDS:
                return False
            self._last = (record.getMessage(), record.created)
        if isinstance(record.args, tuple):
            record.args = tuple(redact(value) if isinstance(value, str) else value for value in record.args)
        record.msg = redact(record.msg)
        return True


async def serve(
    app: FastAPI, options: ServerOptions, stop: asyncio.Event, listener: socket.socket | None = None
) -> None:
    """Serve `app` until `stop` is set, then end within 3 s: feeds are closed with the reason, requests finished.

    `listener`: from `listen`, where the caller wants to know the port or have errors first. Raises InputError.
    """
    listener = listener if listener is not None else listen(options)
    config = uvicorn.Config(
        app,
        http="h11",
        ws=PushProtocol,
        ws_max_size=options.most_message_bytes,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=log.isEnabledFor(logging.DEBUG),
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        lifespan="on",
    )
    redacting = _Redacting()
    for name in ("uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addFilter(redacting)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="http-stop")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        app.state.audience.hub.close("the service is stopping")
        server.should_exit = True
        await asyncio.shield(serving)
        listener.close()
        for name in ("uvicorn.access", "uvicorn.error"):
            logging.getLogger(name).removeFilter(redacting)
