"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from starlette.responses import PlainTextResponse

from streamcap.server.auth import Auth
from streamcap.server.metrics.service import Metrics
from streamcap.server.readiness import NOT_READY
from streamcap.streams.stream_set import StreamSet

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def routes(streams: StreamSet, metrics: Metrics, auth: Auth) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """200 while the event loop runs, also while the model loads."""
        return "ok\n"

    @router.get("/readyz", response_class=PlainTextResponse)
    async def readyz() -> PlainTextResponse:
        """200 when the model is loaded and the streams are added; 503 before, and during shutdown. An overload is
        named, with 200: a restart would not help, and viewers are served.
        """
        if not streams.ready:
            return PlainTextResponse(f"{NOT_READY}\n", 503)
        load = streams.overload.describe()
        return PlainTextResponse(f"ready; overloaded: {load}\n" if load else "ready\n")

    @router.get("/metrics", dependencies=[Depends(auth.viewer)], response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router
