"""`PathPrefix`: serves the service under a path of a proxy, such as `https://home.example/cams/`."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_PREFIX_CHARACTERS = 200
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+", re.ASCII)

_OWN_PATHS = frozenset(
    (
        *("api", "captions", "docs", "healthz", "history", "metrics", "openapi.json", "overlay", "pages", "readyz"),
        *("streams", "whep", "whip"),
    )
)


def is_prefix(text: str) -> bool:
    """Whether `text` is a valid path prefix: `/cams`, `/a/b`; without `//`, `..` and a slash at the end. Paths of the
    service itself are invalid, because paths with and without the prefix would be ambiguous.
    """
    match = _PREFIX.fullmatch(text) if len(text) <= MAX_PREFIX_CHARACTERS else None
    return match is not None and text.split("/")[1] not in _OWN_PATHS


def route_path(scope: Scope) -> str:
    """The path of a request without the prefix, as the routes declare it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class PathPrefix:
    """ASGI middleware. The prefix is the proxy's `X-Forwarded-Prefix`, else `root_path`; it becomes the scope's
    `root_path`, so that `Location` and the OpenAPI document carry it.

    Works with proxies that strip the prefix and with those that keep it. The header needs no trust: it changes only
    the links in the sender's own response.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
        prefix = header if is_prefix(header) else self._root_path
        path = scope["path"]
        if prefix and path == prefix and scope["type"] == "http":
            # The links in the pages are relative and need the slash.
            query = f"?{quote(scope['query_string'], safe='=&%+')}" if scope["query_string"] else ""
            await RedirectResponse(f"{prefix}/{query}")(scope, receive, send)
            return
        if not path.startswith(f"{prefix}/"):
            path = f"{prefix}{path}"
        await self._app({**scope, "path": path, "root_path": prefix}, receive, send)
