"""A scripted HTTP server that speaks OpenAI's chat completions, or fails in any way a server can."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

SSE = "text/event-stream"


@dataclass
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"][0]["text"])

    @property
    def images(self) -> list[Image.Image]:
        urls = [
            part["image_url"]["url"] for part in self.body["messages"][-1]["content"] if part["type"] == "image_url"
        ]
        return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


Handler = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ChatServer:
    """Answers each request by `handler`, which may be replaced at any time."""

    handler: Handler
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Listen; after `die` on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls, limit=2**24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Stop listening, and break all connections off."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in fields}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                received = Received(head[0].split()[1], headers, json.loads(content))
                self.requests.append(received)
                await self.handler(received, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            with contextlib.suppress(ConnectionError, RuntimeError):
                writer.transport.abort()


@contextlib.asynccontextmanager
async def chat_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[ChatServer]:
    server = ChatServer(handler, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.die()


def start_answer(writer: asyncio.StreamWriter, status: str = "200 OK", kind: str = SSE, **headers: str) -> None:
    """The head of a chunked response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Transfer-Encoding: chunked"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())


def write_chunk(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(content), content))


def end_answer(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")


def delta(text: str, **others: Any) -> bytes:
    """One event with a piece of text."""
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}, **others}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":300,"completion_tokens":7,"total_tokens":307}}\n\n'
DONE = b"data: [DONE]\n\n"


async def stream_text(writer: asyncio.StreamWriter, words: Iterable[str], pause: float = 0.0) -> None:
    """A complete streamed answer."""
    start_answer(writer)
    for word in words:
        write_chunk(writer, delta(word))
        await writer.drain()
        if pause:
            await asyncio.sleep(pause)
    write_chunk(writer, delta("", finish_reason="stop"))
    write_chunk(writer, USAGE + DONE)
    end_answer(writer)


def answering(text: str, pause: float = 0.0) -> Handler:
    """Answers every request with `text`, word by word."""

    async def handle(_received: Received, writer: asyncio.StreamWriter) -> None:
        await stream_text(writer, [f"{word} " for word in text.split(" ")], pause)

    return handle


def replying(status: str, content: bytes, kind: str = "application/json", **headers: str) -> Handler:
    """Answers every request with a whole response."""

    async def handle(_received: Received, writer: asyncio.StreamWriter) -> None:
        start_answer(writer, status, kind, **headers)
        for at in range(0, len(content), 65536):
            write_chunk(writer, content[at : at + 65536])
            await writer.drain()
        end_answer(writer)

    return handle


def breaking_off(text: str) -> Handler:
    """Sends `text`, then breaks the connection off."""

    async def handle(_received: Received, writer: asyncio.StreamWriter) -> None:
        start_answer(writer)
        for word in text.split(" "):
            write_chunk(writer, delta(f"{word} "))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    return handle


async def silent(_received: Received, writer: asyncio.StreamWriter) -> None:
    """Accepts the request and never answers."""
    await asyncio.sleep(3600)


async def stalling(_received: Received, writer: asyncio.StreamWriter) -> None:
    """Begins an answer and never ends it."""
    start_answer(writer)
    write_chunk(writer, delta("a man "))
    await writer.drain()
    await asyncio.sleep(3600)
