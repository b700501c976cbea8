"""`create_app`: the HTTP and websocket service over a set of streams. No globals; nothing here knows the model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import streamcap
from streamcap.server import feed_routes, health_routes, hls_routes, page_routes, refusal, stream_routes, webrtc_routes
from streamcap.server.audience import FeedBroadcaster
from streamcap.server.bounds import RequestLimits
from streamcap.server.gate import Auth
from streamcap.server.metrics import Metrics
from streamcap.server.options import ServerOptions
from streamcap.server.publishers import WhipSessions
from streamcap.server.readiness import Readiness
from streamcap.server.watchers import WhepSessions
from streamcap.service.streams import StreamSet


def create_app(streams: StreamSet, options: ServerOptions) -> FastAPI:
    """The application; serve it with `streamcap.server.run.serve`. `streams` stays the caller's to close."""
    whip_sessions, whep_sessions = WhipSessions(streams, options), WhepSessions(streams, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(whip_sessions.remove_abandoned_periodically(), name="sweep")
        yield
        sweeping.cancel()
        await asyncio.gather(asyncio.wait((sweeping,)), whip_sessions.close(), whep_sessions.close())

    app = FastAPI(
        title="streamcap",
        version=streamcap.__version__,
        description="Streaming, real-time captions of what a video shows.",
        docs_url=None,  # the pages of the framework load their scripts from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    auth = Auth(options)
    broadcaster = FeedBroadcaster(streams.hub, options.max_viewers)
    metrics = Metrics(streams, broadcaster, whip_sessions, whep_sessions)
    streams.hub.observers.append(metrics.observe)
    app.state.broadcaster, app.state.whip_sessions, app.state.whep_sessions = broadcaster, whip_sessions, whep_sessions
    app.state.streams = streams
    refusal.install(app)
    app.include_router(feed_routes.routes(broadcaster, auth, heartbeat=options.heartbeat))
    app.include_router(stream_routes.routes(streams, auth, options))
    app.include_router(hls_routes.routes(streams, auth))
    app.include_router(webrtc_routes.routes(whip_sessions, whep_sessions, auth, options))
    app.include_router(health_routes.routes(streams, metrics, auth))
    app.include_router(page_routes.routes())
    app.add_middleware(Readiness, streams=streams)
    app.add_middleware(RequestLimits, most_bytes=options.max_body_bytes)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(options.origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "If-Match"],
            expose_headers=["Location", "ETag", "Link"],
        )
    return app
