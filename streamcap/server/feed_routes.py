"""The event feed: websocket `/captions`."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from streamcap.server.audience import Audience
from streamcap.server.gate import Gate
from streamcap.server.wish import read_query


def routes(audience: Audience, gate: Gate) -> APIRouter:
    router = APIRouter()

    @router.websocket("/captions")
    async def captions(websocket: WebSocket) -> None:
        gate.viewer(websocket)
        await audience.attend(websocket, read_query(websocket.query_params))

    return router
