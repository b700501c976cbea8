"""Until the streams are ready, and once they end, what concerns them is answered with 503."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from streamcap.server.errors import answer
from streamcap.server.path_prefix import route_path
from streamcap.streams.stream_set import StreamSet

NOT_READY = "the service is not ready: its model is loading, or it is about to end; try again in a moment"
# Pages, health and metrics are there as soon as the process answers at all.
_OF_STREAMS = frozenset({"streams", "captions", "whip", "whep"})


class Readiness:
    """ASGI middleware. A client that comes too early is told to come again, not that its stream is unknown."""

    def __init__(self, app: ASGIApp, streams: StreamSet) -> None:
        self._app = app
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams.ready or scope["type"] not in ("http", "websocket") or not _is_of_streams(route_path(scope)):
            await self._app(scope, receive, send)
        else:
            await answer(503, NOT_READY, {"Retry-After": "1"})(scope, receive, send)


def _is_of_streams(path: str) -> bool:
    return path.lstrip("/").partition("/")[0] in _OF_STREAMS
