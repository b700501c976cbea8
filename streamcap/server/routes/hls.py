"""HLS subtitles: `/streams/NAME/hls/captions.m3u8`, for use as a subtitle rendition of a video playlist."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from streamcap.captions.cue import Cue, merge_cues, to_ms
from streamcap.captions.event import StreamState
from streamcap.captions.formats import hls
from streamcap.daemon_pool import DaemonPool
from streamcap.server.auth import Auth
from streamcap.server.http.limits import newest_cues
from streamcap.server.routes.stream import file_of
from streamcap.streams.stream_set import StreamSet

# The 33-bit clock of MPEG-TS.
_MPEGTS_RANGE = 2**33
MAX_QUERY_BYTES = 1000
"""Limit of a playlist's query, which every segment's URL repeats."""
_Mpegts = Annotated[
    int, Query(ge=0, lt=_MPEGTS_RANGE, description="90 kHz timestamp of the stream's time zero in the video.")
]


def routes(streams: StreamSet, auth: Auth, pool: DaemonPool) -> APIRouter:
    router = APIRouter(prefix="/streams/{name}/hls", tags=["subtitles"], dependencies=[Depends(auth.viewer)])

    @router.get("/captions.m3u8", **file_of("application/vnd.apple.mpegurl"))
    async def playlist(name: str, request: Request, mpegts: _Mpegts = hls.FFMPEG_MPEGTS) -> Response:
        """The rolling playlist. Its query (at most 1,000 bytes) is copied to the segments' URLs."""
        query = urlencode(request.query_params.multi_items())
        if len(query) > MAX_QUERY_BYTES:
            raise HTTPException(414, f"the query is longer than {MAX_QUERY_BYTES} bytes: every segment repeats it")
        _, playlist_window = await _current_cues(streams, name, pool)
        return Response(
            hls.playlist(playlist_window, query),
            headers={"Cache-Control": "no-store"},
            media_type="application/vnd.apple.mpegurl",
        )

    @router.get("/{number}.vtt", **file_of("text/vtt"))
    async def segment(
        name: str, number: Annotated[int, Path(ge=0, lt=2**40)], mpegts: _Mpegts = hls.FFMPEG_MPEGTS
    ) -> Response:
        """One segment: the captions shown during its six seconds."""
        cues, playlist_window = await _current_cues(streams, name, pool)
        if not playlist_window.first <= number < playlist_window.stop:
            raise HTTPException(
                404, f"segment {number} is outside the window, {playlist_window.first} to {playlist_window.stop - 1}"
            )
        return Response(
            hls.segment(cues, number, mpegts),
            headers={"Cache-Control": "max-age=3600"},
            media_type="text/vtt",
        )

    return router


async def _current_cues(streams: StreamSet, name: str, pool: DaemonPool) -> tuple[list[Cue], hls.PlaylistWindow]:
    """The stream's cues and the playlist window; merged in a thread, since a full window would block the loop."""
    stream = streams.get(name)
    track = stream.track
    # The newest time that is captioned or found unchanged.
    end_ms = to_ms(track.end - track.every) if track.last is not None else 0
    ended = stream.state in (StreamState.ENDED, StreamState.FAILED)
    cues = await pool.run(lambda finals: newest_cues(merge_cues(finals)), track.finals)
    return cues, hls.playlist_window(cues, end_ms, ended=ended)
