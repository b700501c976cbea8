"""The pages: static files of the package. No build step; nothing is loaded from other hosts."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

PAGES = Path(__file__).parents[1] / "pages"


def routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    def page(path: str, name: str) -> None:
        @router.get(path)
        async def show() -> FileResponse:
            return FileResponse(PAGES / name, headers={"Cache-Control": "no-cache"})

    page("/", "index.html")
    page("/overlay", "overlay.html")
    page("/docs", "docs.html")
    router.mount("/pages", StaticFiles(directory=PAGES))
    return router
