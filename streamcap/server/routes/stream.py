"""The streams: what there is, add, remove, and their subtitles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from streamcap.captions.cue import Cue, merge_cues
from streamcap.captions.formats import srt, vtt
from streamcap.captions.text import clean_text
from streamcap.daemon_pool import DaemonPool
from streamcap.errors import InputError
from streamcap.media.sources.url import LOCAL, NETWORK, PUSHED
from streamcap.server.auth import Auth
from streamcap.server.limits import newest_cues
from streamcap.server.options import ServerOptions
from streamcap.streams.snapshot import StreamSnapshot
from streamcap.streams.stream_set import StreamSet

NETWORK_SCHEMES = frozenset((*NETWORK, *PUSHED))
LOCAL_SCHEMES = frozenset(LOCAL)
_NO_STORE = {"Cache-Control": "no-store"}


_EXAMPLE_URL = "rtsp://user:password@camera/stream"


class NewStream(BaseModel):
    """The body of `POST /streams`."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(min_length=1, max_length=2048, examples=[_EXAMPLE_URL])]
    name: Annotated[str | None, Field(max_length=64, description="Made from the URL when there is none.")] = None
    every: Annotated[float | None, Field(description="Seconds between captions.", allow_inf_nan=False)] = None


class StreamChange(BaseModel):
    """The body of `PATCH /streams/NAME`: what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str | None, Field(min_length=1, max_length=2048, examples=[_EXAMPLE_URL])] = None
    every: Annotated[float | None, Field(description="Seconds between captions.", allow_inf_nan=False)] = None


def file_of(media_type: str) -> dict[str, Any]:
    """What a route that answers with a file of `media_type` says of itself in the API's description."""
    return {"response_class": Response, "responses": {200: {"content": {media_type: {"schema": {"type": "string"}}}}}}


def check_scheme(url: str, *, allow_local: bool) -> None:
    """Whether a stream of `url` may be added over HTTP. Raises HTTPException (403), InputError."""
    scheme, colon, _ = url.strip().partition(":")
    if allow_local or scheme.lower() in NETWORK_SCHEMES:
        return
    if url.strip()[len(scheme) :].startswith("://") and scheme.lower() not in LOCAL_SCHEMES:
        raise InputError(f"no source has the scheme {scheme[:20]!r}; use {', '.join(sorted(NETWORK_SCHEMES))}")
    what = "a file" if not colon or "/" in scheme else f"{scheme[:20]}:"
    raise HTTPException(
        403, f"{what} is a source of this machine: use a network address, or start the service with --allow-local"
    )


def shown(view: StreamSnapshot) -> StreamSnapshot:
    """`view` as JSON can say it: the name of a file need not be Unicode."""
    return replace(view, url=clean_text(view.url), reason=clean_text(view.reason))


def _render(render: Callable[[Iterable[Cue]], str], finals: tuple[Cue, ...]) -> str:
    """A subtitle file; a full window of a caption a second takes too long for the loop."""
    return render(newest_cues(merge_cues(finals)))


def routes(streams: StreamSet, auth: Auth, options: ServerOptions, pool: DaemonPool) -> APIRouter:
    router = APIRouter(prefix="/streams", tags=["streams"])

    @router.get("", dependencies=[Depends(auth.viewer)])
    async def list_streams(request: Request, response: Response) -> list[StreamSnapshot]:
        """Every stream with its state, counters and newest caption. `Allow` has POST if this token may add streams."""
        response.headers["Allow"] = "GET, HEAD, POST" if auth.may_publish(request) else "GET, HEAD"
        return [shown(streams.get(name).view()) for name in streams.names()]

    @router.post("", status_code=201, dependencies=[Depends(auth.publisher)])
    async def add_stream(new: NewStream, request: Request, response: Response) -> StreamSnapshot:
        """Start captioning a camera. Network addresses only, unless the service was started with `--allow-local`."""
        check_scheme(new.url, allow_local=options.allow_local)
        stream = await streams.add(new.name, new.url, new.every)
        response.headers["Location"] = f"{request.scope['root_path']}/streams/{stream.name}"
        return shown(stream.view())

    @router.get("/{name}", dependencies=[Depends(auth.viewer)])
    async def show_stream(name: str) -> StreamSnapshot:
        """One stream."""
        return shown(streams.get(name).view())

    @router.patch("/{name}", dependencies=[Depends(auth.publisher)])
    async def change_stream(name: str, change: StreamChange) -> StreamSnapshot:
        """Restart a stream, with another address or interval if the body has one; `{}` tries a failed camera again."""
        if change.url is not None:
            check_scheme(change.url, allow_local=options.allow_local)
        stream = await streams.replace(name, url=change.url, every=change.every)
        return shown(stream.view())

    @router.delete("/{name}", status_code=204, dependencies=[Depends(auth.publisher)])
    async def remove_stream(name: str) -> None:
        """Stop a stream. Its files stay."""
        await streams.remove(name)

    @router.get("/{name}/captions.srt", dependencies=[Depends(auth.viewer)], **file_of("application/x-subrip"))
    async def captions_srt(name: str) -> Response:
        """The rolling window as SubRip."""
        text = await pool.run(_render, srt.render, streams.get(name).track.finals)
        return Response(text, headers=_NO_STORE, media_type="application/x-subrip")

    @router.get("/{name}/captions.vtt", dependencies=[Depends(auth.viewer)], **file_of("text/vtt"))
    async def captions_vtt(name: str) -> Response:
        """The rolling window as WebVTT."""
        text = await pool.run(_render, vtt.render, streams.get(name).track.finals)
        return Response(text, headers=_NO_STORE, media_type="text/vtt")

    return router
