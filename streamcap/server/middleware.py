"""Bounds on what comes in, and headers on what goes out, for every HTTP request."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamcap.server.errors import answer

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src 'self' blob:; "
        "style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
}


# So much more of a refused body is read and thrown away, for a client that does not read the answer while it sends.
_DRAIN_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 20.0


class RequestLimits:
    """ASGI middleware: a body over `most_bytes` is refused with 413, announced or not; one that dawdles with 408."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["method"] == "HEAD" and not scope["path"].startswith("/captions/"):
            # As GET; uvicorn leaves the body out. An event stream would have no end.
            scope = {**scope, "method": "GET"}
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send_with_headers)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(receive)
        except ClientDisconnect:
            return
        except TimeoutError:
            late = answer(408, f"the body did not come within {BODY_SECONDS:g} s", {"Connection": "close"})
            await late(scope, receive, send_with_headers)
            return
        if body is None:
            large = answer(413, f"the body is larger than {self._most} bytes", {"Connection": "close"})
            await large(scope, receive, send_with_headers)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed_receive() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replayed_receive, send_with_headers)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None when it is too large. Raises ClientDisconnect."""
        body = bytearray()
        dropped = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            if dropped or len(body) + len(part) > self._most:
                dropped += len(part)
                body.clear()
            else:
                body += part
            if not message.get("more_body", False) or dropped > _DRAIN_BYTES:
                return None if dropped else bytes(body)
