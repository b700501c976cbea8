"""`Snapshots`: the newest frame of a stream as JPEG."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import av

from streamcap.daemon_pool import DaemonPool
from streamcap.errors import StreamcapError
from streamcap.media.orientation import show
from streamcap.streams.stream import Stream

MAX_SIDE = 1920
"""Larger frames are scaled down to it."""
QUALITY = 85


class NoSnapshotError(StreamcapError):
    """No frame of the stream can be shown now."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    frame: tuple[int, float]
    """Epoch and arrival of the frame."""
    jpeg: bytes


class Snapshots:
    """Encodes each frame once, and one frame of a stream at a time, however many clients ask. On the event loop."""

    def __init__(self, pool: DaemonPool) -> None:
        self._pool = pool
        self._newest: WeakKeyDictionary[Stream, asyncio.Future[_Encoded]] = WeakKeyDictionary()

    async def jpeg(self, stream: Stream) -> bytes:
        """The newest frame: masked, upright, with square pixels. Raises NoSnapshotError, PoolFullError."""
        newest = self._newest.get(stream)
        if newest is None or newest.done():
            call = self._pool.submit(_encode, stream, _result(newest))
            newest = self._newest[stream] = asyncio.wrap_future(call)
        # The others still wait for it if this client leaves.
        return (await asyncio.shield(newest)).jpeg


def _result(future: asyncio.Future[_Encoded] | None) -> _Encoded | None:
    """The result of a completed future, if it has one."""
    failed = future is None or future.cancelled() or future.exception() is not None
    return None if failed or future is None else future.result()


def _encode(stream: Stream, last: _Encoded | None) -> _Encoded:
    # Imported on first use: the server needs Pillow for nothing else.
    from PIL import Image

    try:
        frame = stream.newest_frame()
        if frame is None:
            raise NoSnapshotError(f"stream {stream.name} has no frame yet; retry in a moment")
        key = frame.epoch, frame.arrived
        if last is not None and last.frame == key:
            return last
        out = io.BytesIO()
        image = Image.fromarray(show(frame.video_frame, frame.sample_aspect, max_side=MAX_SIDE))
        image.save(out, "JPEG", quality=QUALITY)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise NoSnapshotError(f"the newest frame of stream {stream.name} cannot be converted: {error}") from error
    return _Encoded(key, out.getvalue())
