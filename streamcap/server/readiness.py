"""`Readiness`: responds with 503 while the streams are not ready."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from streamcap.server.errors import answer
from streamcap.server.http.path_prefix import route_path
from streamcap.streams.stream_set import StreamSet

NOT_READY = "the service is not ready: the model is loading, or the service is stopping; try again in a moment"
# Pages, health and metrics are always served.
_STREAM_PATHS = frozenset({"streams", "captions", "whip", "whep"})


class Readiness:
    """ASGI middleware. Before the streams are added, clients get 503 with Retry-After instead of 404."""

    def __init__(self, app: ASGIApp, streams: StreamSet) -> None:
        self._app = app
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams.ready or scope["type"] not in ("http", "websocket") or not _needs_streams(route_path(scope)):
            await self._app(scope, receive, send)
        else:
            await answer(503, NOT_READY, {"Retry-After": "1"})(scope, receive, send)


def _needs_streams(path: str) -> bool:
    return path.lstrip("/").partition("/")[0] in _STREAM_PATHS
