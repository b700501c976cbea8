"""The event feed: websocket `/captions`, and server-sent events `/captions/NAME`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response, WebSocket
from starlette.responses import StreamingResponse

from streamcap.captions.hub import Hub, UnknownStreamError
from streamcap.server.auth import Auth
from streamcap.server.feed.broadcaster import FeedBroadcaster
from streamcap.server.feed.query import FeedRequest, event_number, read_query
from streamcap.server.feed.sse import EventStream


def routes(broadcaster: FeedBroadcaster, auth: Auth, *, heartbeat: float) -> APIRouter:
    router = APIRouter(tags=["feed"])

    @router.websocket("/captions")
    async def captions(websocket: WebSocket) -> None:
        await auth.viewer(websocket)
        await broadcaster.serve(websocket, read_query(websocket.query_params))

    @router.get(
        "/captions/{name}",
        dependencies=[Depends(auth.viewer)],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "JSON events"}},
    )
    async def captions_sse(
        name: str, request: Request, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Server-sent events of one stream, resuming after `Last-Event-ID` or `?since=SEQ`."""
        feed_request = read_query(request.query_params, stream=name)
        if last_event_id:
            feed_request = FeedRequest(feed_request.options, last_seen(broadcaster.hub, name, last_event_id))
        return EventStream(broadcaster, feed_request, heartbeat=heartbeat)

    return router


def last_seen(hub: Hub, name: str, last_event_id: str) -> int | None:
    """The number after which a reconnecting browser resumes; None: at the current event. Raises InputError.

    A number beyond the last one belongs to an earlier run whose events are lost. The browser sends it automatically
    and would stop reconnecting after an error, so it continues with new events.
    """
    seq = event_number(last_event_id, "Last-Event-ID")
    if name not in hub.feeds:
        raise UnknownStreamError(f"no stream is named {name[:80]}")
    return seq if seq <= hub.feeds[name].last_seq + hub.max_ahead else None
