"""`SecurityHeaders`: adds headers to every HTTP response, and serves HEAD as GET."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamcap.server.http.path_prefix import route_path

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src 'self' blob:; "
        "style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
}


class SecurityHeaders:
    """ASGI middleware. A header already set by a route is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["method"] == "HEAD" and not route_path(scope).startswith("/captions/"):
            # uvicorn omits the body. Not for event streams, which never end.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send_with_headers)
