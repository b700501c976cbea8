"""Limits of the size of requests and responses, and of the time a request may take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamcap.captions.cue import Cue
from streamcap.server.errors import answer

MAX_TARGET_BYTES = 8000
"""Path and query: enough for a hundred stream names. A websocket's request line is limited to 8,192 bytes."""
MAX_HEAD_BYTES = 65_536
MAX_SUBTITLE_BYTES = 8_000_000
"""Limit of a subtitle file: days of usual captions."""
BODY_SECONDS = 20.0
# Bytes of a refused body that are read and discarded, for clients that read the response only after sending.
_DRAIN_BYTES = 16 * 1024 * 1024
_CLOSE = {"Connection": "close"}
# A cue without its text: number and time line.
_CUE_BYTES = 48


class RequestLimits:
    """ASGI middleware: 414 for a target over MAX_TARGET_BYTES, 431 for headers over MAX_HEAD_BYTES, 413 for a body over
    `max_body_bytes`, 408 for a body that is not complete within BODY_SECONDS, 400 for a body with two lengths.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            await answer(414, f"path and query are longer than {MAX_TARGET_BYTES} bytes")(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            # The parser limits a head only while it is incomplete.
            await answer(431, f"the headers are longer than {MAX_HEAD_BYTES} bytes", _CLOSE)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:
            # Request smuggling: a proxy may read another end of the body than this server.
            refusal = answer(400, "Content-Length and Transfer-Encoding exclude each other", _CLOSE)
            await refusal(scope, receive, send)
            return
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(receive)
        except ClientDisconnect:
            return
        except TimeoutError:
            await answer(408, f"the body was not complete within {BODY_SECONDS:g} s", _CLOSE)(scope, receive, send)
            return
        if body is None:
            await answer(413, f"the body is larger than {self._max_body_bytes} bytes", _CLOSE)(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed_receive() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replayed_receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The complete body; None if it is too large. Raises ClientDisconnect."""
        body = bytearray()
        dropped = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            if dropped or len(body) + len(part) > self._max_body_bytes:
                dropped += len(part)
                body.clear()
            else:
                body += part
            if not message.get("more_body", False) or dropped > _DRAIN_BYTES:
                return None if dropped else bytes(body)


def newest_cues(cues: Iterable[Cue]) -> list[Cue]:
    """The newest of `cues` that fit into a file of MAX_SUBTITLE_BYTES."""
    newest = list(cues)
    available = MAX_SUBTITLE_BYTES
    for index in range(len(newest) - 1, -1, -1):
        available -= _CUE_BYTES + len(newest[index].text.encode(errors="replace"))
        if available < 0:
            return newest[index + 1 :]
    return newest
