"""What WHIP and WHEP share (RFC 9725), as far as it needs no WebRTC."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from streamcap.streams.stream import Stream
from streamcap.streams.stream_set import StreamSet

SDP = "application/sdp"
TRICKLE = "application/trickle-ice-sdpfrag"


async def read_body(request: Request, content_type: str) -> str:
    """The body as text. Raises HTTPException: 415 for another content type, 400 for invalid UTF-8."""
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != content_type:
        raise HTTPException(415, f"content type {content[:60] or 'none'!r}: use {content_type}", {"Accept-Post": SDP})
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise HTTPException(400, "the body is not UTF-8 text") from error


def refuse_elsewhere(stream: Stream, path: str) -> None:
    """Raises HTTPException if another machine runs `stream`: 307 to `path` there, or 503 if its address is unknown."""
    other = stream.elsewhere()
    if other is None:
        return
    if "://" in other:
        raise HTTPException(307, f"node {other} has this stream's video", {"Location": f"{other.rstrip('/')}/{path}"})
    raise HTTPException(503, f"node {other} has this stream's video: ask that node", {"Retry-After": "2"})


def is_registered(streams: StreamSet, stream: Stream) -> bool:
    """Whether `stream` is still in the set; a removed stream's name may already belong to another stream."""
    return stream.name in streams.names() and streams.get(stream.name) is stream
