"""A reverse proxy that serves a site under a path of its own and strips that path, as Home Assistant's ingress does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field

_MAX_HEAD = 64 * 1024
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class PrefixProxy:
    """The service behind it learns nothing of the prefix: no header tells."""

    prefix: str
    """Such as `/cams`."""
    upstream: int
    """The service's port on loopback."""
    port: int = 0
    strays: list[str] = field(default_factory=list)
    """Request lines for anything outside the prefix: each is a link that ignores where the page is served."""

    @property
    def url(self) -> str:
        """With a slash at its end."""
        return f"http://127.0.0.1:{self.port}{self.prefix}/"

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[PrefixProxy]:
        """Listen on a free port of loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MAX_HEAD)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: nothing after its head has to be understood."""
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
            pass  # a browser that leaves is no news
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
