"""A small reverse proxy that strips a path prefix, as nginx's `location /cams/ { proxy_pass …/; }` does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def prefix_proxy(port: int, prefix: str, *, strips: bool = True, tells: bool = True) -> AsyncIterator[int]:
    """The port of a proxy before the server on `port`.

    `strips`: takes the prefix off the path; `tells`: sets `X-Forwarded-Prefix`.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        writers = [writer]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, _, rest = head.partition("\r\n")
            method, path, version = first.split(" ")
            lines = [f"X-Forwarded-Prefix: {prefix}\r\n"] if tells else []
            if "upgrade" not in head.lower():
                lines.append("Connection: close\r\n")
            path = path.removeprefix(prefix) if strips else path
            there, to_there = await asyncio.open_connection("127.0.0.1", port)
            writers.append(to_there)
            to_there.write(f"{method} {path} {version}\r\n{''.join(lines)}{rest}".encode("latin-1"))
            await asyncio.gather(_copy(there, writer), _copy(reader, to_there))
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side is gone
        finally:
            for one in writers:
                one.close()
            await asyncio.gather(*(one.wait_closed() for one in writers), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
