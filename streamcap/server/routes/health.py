"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse

from streamcap.server.auth import Auth
from streamcap.server.metrics import Metrics
from streamcap.server.readiness import NOT_READY
from streamcap.streams.stream_set import StreamSet


def routes(streams: StreamSet, metrics: Metrics, auth: Auth) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """200 while the event loop runs, also while the model loads."""
        return "ok\n"

    @router.get("/readyz", response_class=PlainTextResponse)
    async def readyz() -> PlainTextResponse:
        """200 when the model is loaded and the streams are added; 503 before, and during shutdown."""
        return PlainTextResponse("ready\n") if streams.ready else PlainTextResponse(f"{NOT_READY}\n", 503)

    @router.get("/metrics", dependencies=[Depends(auth.viewer)], response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
