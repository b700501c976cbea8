"""A reverse proxy that serves a site under a path prefix and strips it, as Home Assistant's ingress does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field

_MAX_HEAD = 64 * 1024
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class PrefixProxy:
    """No header tells the service the prefix."""

    prefix: str
    """For example `/cams`."""
    upstream: int
    """The service's port on loopback."""
    port: int = 0
    strays: list[str] = field(default_factory=list)
    """Request lines outside of the prefix: links that ignore it."""

    @property
    def url(self) -> str:
        """Ends with a slash."""
        return f"http://127.0.0.1:{self.port}{self.prefix}/"

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[PrefixProxy]:
        """Listen on a free loopback port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MAX_HEAD)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection: only its header is parsed."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, fields = head.decode("latin-1").partition("\r\n")
            method, target, version = line.split(" ")
            if not target.startswith(f"{self.prefix}/"):
                self.strays.append(line)
                writer.write(_NOT_FOUND)
                return
            if "\r\nupgrade:" not in f"\r\n{fields.lower()}":
                fields = "\r\n".join(one for one in fields.split("\r\n") if not one.lower().startswith("connection:"))
                fields = f"Connection: close\r\n{fields}"
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            up_writer.write(f"{method} {target.removeprefix(self.prefix)} {version}\r\n{fields}".encode("latin-1"))
            try:
                await _first_of(_copy(reader, up_writer), _copy(up_reader, writer))
            finally:
                up_writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the browser closed the connection
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def _first_of(*copies: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(copy) for copy in copies]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
