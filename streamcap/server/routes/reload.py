"""`POST /api/reload`: reads the configuration file again."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from streamcap.captions.text import clean_text
from streamcap.config.problems import ConfigError
from streamcap.config.reload import Reloader
from streamcap.server.auth import Auth

_EXAMPLE = {
    "added": ["yard"],
    "changed": ["door"],
    "restarted": [],
    "removed": [],
    "failed": {},
    "applied": ["models.talker"],
    "needs_restart": ["server.port"],
}


def routes(reloader: Reloader | None, auth: Auth) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["configuration"])

    @router.post(
        "/reload",
        dependencies=[Depends(auth.publisher)],
        responses={
            200: {"content": {"application/json": {"example": _EXAMPLE}}},
            409: {"description": "The service was started without --config."},
            422: {"description": "The file has problems, listed in `problems`; nothing changed."},
        },
        response_model=None,
    )
    async def reload() -> dict[str, Any] | JSONResponse:
        """Apply what changed in the configuration file: names of the streams, and keys that need a restart."""
        if reloader is None:
            raise HTTPException(409, "the service was started without --config FILE")
        try:
            return (await reloader.reload()).as_json()
        except ConfigError as error:
            lines = [clean_text(str(problem)) for problem in error.problems]
            return JSONResponse({"detail": lines[0], "problems": lines}, 422)

    return router
