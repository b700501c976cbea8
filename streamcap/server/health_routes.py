"""Is it alive, is it ready: for whoever starts and watches the process."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from streamcap.service.streams import Streams


def routes(streams: Streams) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The event loop answers."""
        return "ok\n"

    @router.get("/readyz")
    async def readyz() -> PlainTextResponse:
        """The model is loaded and the engine runs; 503 until then."""
        return PlainTextResponse("ready\n") if streams.ready else PlainTextResponse("the model is loading\n", 503)

    return router
