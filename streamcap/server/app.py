"""`create_app`: the HTTP and websocket service over a set of streams. No globals; nothing here knows the model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import streamcap
from streamcap.server import feed_routes, health_routes, hls_routes, page_routes, refusal, stream_routes, webrtc_routes
from streamcap.server.audience import Audience
from streamcap.server.bounds import Bounds
from streamcap.server.gate import Gate
from streamcap.server.metrics import Metrics
from streamcap.server.options import ServerOptions
from streamcap.server.publishers import Publishers
from streamcap.server.readiness import Readiness
from streamcap.server.watchers import Watchers
from streamcap.service.streams import Streams


def create_app(streams: Streams, options: ServerOptions) -> FastAPI:
    """The application; serve it with `streamcap.server.run.serve`. `streams` stays the caller's to close."""
    publishers, watchers = Publishers(streams, options), Watchers(streams, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(publishers.keep_swept(), name="sweep")
        yield
        sweeping.cancel()
        await asyncio.gather(asyncio.wait((sweeping,)), publishers.close(), watchers.close())

    app = FastAPI(
        title="streamcap",
        version=streamcap.__version__,
        description="Streaming, real-time captions of what a video shows.",
        docs_url=None,  # the pages of the framework load their scripts from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    gate = Gate(options)
    audience = Audience(streams.hub, options.most_viewers)
    metrics = Metrics(streams, audience, publishers, watchers)
    streams.hub.observers.append(metrics.observe)
    app.state.audience, app.state.publishers, app.state.watchers = audience, publishers, watchers
    app.state.streams = streams
    refusal.install(app)
    app.include_router(feed_routes.routes(audience, gate, heartbeat=options.heartbeat))
    app.include_router(stream_routes.routes(streams, gate, options))
    app.include_router(hls_routes.routes(streams, gate))
    app.include_router(webrtc_routes.routes(publishers, watchers, gate, options))
    app.include_router(health_routes.routes(streams, metrics, gate))
    app.include_router(page_routes.routes())
    app.add_middleware(Readiness, streams=streams)
    app.add_middleware(Bounds, most_bytes=options.most_body_bytes)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(options.origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "If-Match"],
            expose_headers=["Location", "ETag", "Link"],
        )
    return app
