"""The streams: list, add, change, remove; and their subtitles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from streamcap.captions.cue import Cue, merge_cues
from streamcap.captions.formats import srt, vtt
from streamcap.captions.text import clean_text
from streamcap.config.state_file import StateFile
from streamcap.config.stream_fields import StreamFields
from streamcap.daemon_pool import DaemonPool
from streamcap.server.auth import Auth
from streamcap.server.http.limits import newest_cues
from streamcap.server.snapshots import NoSnapshotError, Snapshots
from streamcap.server.source_policy import SourcePolicy
from streamcap.server.webrtc.rules import refuse_elsewhere
from streamcap.streams.snapshot import StreamSnapshot
from streamcap.streams.stream_set import StreamSet

_NO_STORE = {"Cache-Control": "no-store"}
_EXAMPLE_URL = "rtsp://user:password@camera/stream"


class NewStream(StreamFields):
    """The body of `POST /streams`."""

    url: Annotated[str, Field(min_length=1, max_length=2048, examples=[_EXAMPLE_URL])]
    name: Annotated[str | None, Field(max_length=64, description="Default: taken from the URL.")] = None


class StreamChange(StreamFields):
    """The body of `PATCH /streams/NAME`. Missing fields stay unchanged; null is the default of the service."""

    url: Annotated[str | None, Field(min_length=1, max_length=2048, examples=[_EXAMPLE_URL])] = None


def file_of(media_type: str) -> dict[str, Any]:
    """OpenAPI arguments of a route that returns a file of `media_type`."""
    return {"response_class": Response, "responses": {200: {"content": {media_type: {"schema": {"type": "string"}}}}}}


def snapshot_of(streams: StreamSet, name: str) -> StreamSnapshot:
    """The snapshot of stream `name`, as valid JSON: a file's name need not be Unicode. Raises UnknownStreamError."""
    snapshot = streams.get(name).view()
    return replace(
        snapshot,
        url=clean_text(snapshot.url),
        reason=clean_text(snapshot.reason),
    )


def _render(render: Callable[[Iterable[Cue]], str], finals: tuple[Cue, ...]) -> str:
    """A subtitle file. Call it in a thread: a full window would block the loop."""
    return render(newest_cues(merge_cues(finals)))


def routes(
    streams: StreamSet, auth: Auth, policy: SourcePolicy, pool: DaemonPool, state: StateFile | None = None
) -> APIRouter:
    router = APIRouter(prefix="/streams", tags=["streams"])

    async def save(name: str) -> None:
        """For the next start of the service. Raises StreamcapError."""
        if state is not None:
            await state.save(streams, name)

    snapshots = Snapshots(pool)

    @router.get("", dependencies=[Depends(auth.viewer)])
    async def list_streams(request: Request, response: Response) -> list[StreamSnapshot]:
        """All streams: state, counters, model, newest caption. `Allow` has POST if this token may add streams."""
        response.headers["Allow"] = "GET, HEAD, POST" if auth.may_publish(request) else "GET, HEAD"
        return [snapshot_of(streams, name) for name in streams.names()]

    @router.post("", status_code=201, dependencies=[Depends(auth.publisher)])
    async def add_stream(new: NewStream, request: Request, response: Response) -> StreamSnapshot:
        """Start captioning a camera. Without `--allow-net` only public addresses, without `--allow-local` no files,
        devices and local ports.
        """
        await policy.check(new.url)
        stream = await streams.add(new.name, new.url, new.settings(), scope=policy.scope)
        await save(stream.name)
        response.headers["Location"] = f"{request.scope['root_path']}/streams/{stream.name}"
        return snapshot_of(streams, stream.name)

    @router.get("/{name}", dependencies=[Depends(auth.viewer)])
    async def show_stream(name: str) -> StreamSnapshot:
        """One stream."""
        return snapshot_of(streams, name)

    @router.patch("/{name}", dependencies=[Depends(auth.publisher)])
    async def change_stream(name: str, change: StreamChange) -> StreamSnapshot:
        """Change a running stream. The camera and the viewers stay connected, and numbers continue. null: the default
        of the service. `url`, or `{}`, restarts the stream; its numbers continue. `{}` retries a failed camera.
        """
        if change.url is not None:
            await policy.check(change.url)
        settings = change.settings(streams.get(name).settings)
        if change.url is None and change.model_fields_set - {"url"}:
            await streams.update(name, settings)
        else:
            await streams.replace(name, url=change.url, settings=settings, scope=policy.scope)
        await save(name)
        return snapshot_of(streams, name)

    @router.delete("/{name}", status_code=204, dependencies=[Depends(auth.publisher)])
    async def remove_stream(name: str) -> None:
        """Stop and remove a stream. Its files are kept."""
        await streams.remove(name)
        await save(name)

    @router.get("/{name}/captions.srt", dependencies=[Depends(auth.viewer)], **file_of("application/x-subrip"))
    async def captions_srt(name: str) -> Response:
        """The rolling subtitle window as SubRip."""
        text = await pool.run(_render, srt.render, streams.get(name).track.finals)
        return Response(text, headers=_NO_STORE, media_type="application/x-subrip")

    @router.get("/{name}/captions.vtt", dependencies=[Depends(auth.viewer)], **file_of("text/vtt"))
    async def captions_vtt(name: str) -> Response:
        """The rolling subtitle window as WebVTT."""
        text = await pool.run(_render, vtt.render, streams.get(name).track.finals)
        return Response(text, headers=_NO_STORE, media_type="text/vtt")

    @router.get("/{name}/snapshot.jpg", dependencies=[Depends(auth.viewer)], **file_of("image/jpeg"))
    async def snapshot_jpg(name: str) -> Response:
        """The newest frame, masked, at most 1920 pixels wide and high; 503 until there is one."""
        refuse_elsewhere(streams.get(name), f"streams/{name}/snapshot.jpg")
        try:
            jpeg = await snapshots.jpeg(streams.get(name))
        except NoSnapshotError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
        return Response(jpeg, headers=_NO_STORE, media_type="image/jpeg")

    return router
