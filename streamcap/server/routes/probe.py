"""`POST /api/probe`: what a source is, or what is wrong with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from streamcap.daemon_pool import DaemonPool
from streamcap.media.sources.probe import ProbeReport, probe
from streamcap.server.auth import Auth
from streamcap.server.source_policy import SourcePolicy


class ProbeRequest(BaseModel):
    """The body of `POST /api/probe`."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(min_length=1, max_length=2048, examples=["rtsp://user:password@camera/stream"])]


def routes(auth: Auth, policy: SourcePolicy, pool: DaemonPool) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["streams"])

    @router.post("/probe", dependencies=[Depends(auth.publisher)])
    async def probe_source(wanted: ProbeRequest) -> ProbeReport:
        """Open a source for up to 10 s. `usable` and `reason` say whether it works. Allowed are the addresses that
        `POST /streams` allows.
        """
        await policy.check(wanted.url)
        return await pool.run(_probe, wanted.url, policy)

    return router


def _probe(url: str, policy: SourcePolicy) -> ProbeReport:
    return probe(url, scope=policy.scope)
