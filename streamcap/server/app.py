"""`create_app`: the HTTP and websocket service of a set of streams. It has no globals and does not import the model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from fastapi import FastAPI
from prometheus_client.metrics_core import Metric
from starlette.middleware.cors import CORSMiddleware

import streamcap
from streamcap.config.reload import Reloader
from streamcap.config.state_file import StateFile
from streamcap.daemon_pool import DaemonPool
from streamcap.server import errors
from streamcap.server.auth import Auth, normal_origin
from streamcap.server.feed.broadcaster import FeedBroadcaster
from streamcap.server.http.limits import RequestLimits
from streamcap.server.http.middleware import SecurityHeaders
from streamcap.server.http.path_prefix import PathPrefix
from streamcap.server.metrics.service import Metrics
from streamcap.server.options import ServerOptions
from streamcap.server.readiness import Readiness
from streamcap.server.routes import feed, health, hls, page, probe, reload, stream, webrtc
from streamcap.server.source_policy import SourcePolicy
from streamcap.server.webrtc.offers import OfferPace
from streamcap.server.webrtc.whep import WhepSessions
from streamcap.server.webrtc.whip import WhipSessions
from streamcap.streams.stream_set import StreamSet

# Threads that render subtitle files and playlists. Policy when the queue is full: 503.
RENDER_THREADS = 2
MAX_WAITING_RENDERS = 64
# Sources that are probed at a time, for 10 s each. Policy when more wait: 503.
PROBE_THREADS = 4
MAX_WAITING_PROBES = 4


def create_app(
    streams: StreamSet,
    options: ServerOptions,
    *,
    reloader: Reloader | None = None,
    state: StateFile | None = None,
    more_metrics: Callable[[], Iterable[Metric]] = tuple,
) -> FastAPI:
    """The application, for `streamcap.server.http.server.serve`. The caller closes `streams`.

    reloader: of the configuration file, if there is one. state: remembers the streams that HTTP clients change.
    more_metrics: called at each scrape, for what `streams` do not know.
    """
    pace = OfferPace()
    whip_sessions, whep_sessions = WhipSessions(streams, options, pace), WhepSessions(streams, options, pace)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(whip_sessions.remove_abandoned_periodically(), name="sweep")
        yield
        sweeping.cancel()
        await asyncio.gather(asyncio.wait((sweeping,)), whip_sessions.close(), whep_sessions.close())
        pool.close()
        probes.close()
        policy.close()

    app = FastAPI(
        title="streamcap",
        version=streamcap.__version__,
        description="Streaming, real-time captions of what a video shows.",
        docs_url=None,  # the framework's pages load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
    )
    auth = Auth(options)
    policy = SourcePolicy(options)
    pool = DaemonPool("http", max_threads=RENDER_THREADS, max_waiting=MAX_WAITING_RENDERS)
    probes = DaemonPool("probes", max_threads=PROBE_THREADS, max_waiting=MAX_WAITING_PROBES)
    broadcaster = FeedBroadcaster(streams.hub, options.max_viewers)
    metrics = Metrics(streams, broadcaster, whip_sessions, whep_sessions, pace, more_metrics)
    streams.hub.observers.append(metrics.observe)
    app.state.broadcaster, app.state.whip_sessions, app.state.whep_sessions = broadcaster, whip_sessions, whep_sessions
    app.state.streams = streams
    errors.install(app)
    app.include_router(feed.routes(broadcaster, auth, heartbeat=options.heartbeat))
    app.include_router(stream.routes(streams, auth, policy, pool, state))
    app.include_router(probe.routes(auth, policy, probes))
    app.include_router(hls.routes(streams, auth, pool))
    app.include_router(webrtc.routes(whip_sessions, whep_sessions, auth, options))
    app.include_router(health.routes(streams, metrics, auth))
    app.include_router(reload.routes(reloader, auth))
    app.include_router(page.routes())
    app.add_middleware(Readiness, streams=streams)
    app.add_middleware(RequestLimits, max_body_bytes=options.max_body_bytes)
    app.add_middleware(SecurityHeaders)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(map(normal_origin, options.origins)),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "If-Match"],
            expose_headers=["Location", "ETag", "Link"],
        )
    app.add_middleware(PathPrefix, root_path=options.root_path)
    return app
