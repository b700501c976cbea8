"""`Preview`: a stream's video, scaled and encoded once for all its viewers, and only while there are any."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.packet import Packet as AnyPacket
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from streamcap.media.orientation import UPRIGHT, orientation_of, show
from streamcap.streams.stream import Stream

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from streamcap.server.webrtc.preview_track import PreviewTrack

    Packet = AnyPacket[VideoStream]

CODEC = "video/VP8"
WIDTH, HEIGHT = 640, 360
"""Frames are scaled down to fit into this size."""
FRAMES_PER_SECOND = 12
BITS_PER_SECOND = 600_000
# A viewer that lost a packet gets a complete image again after this time at the latest.
KEYFRAME_SECONDS = 2.0
# An unchanged frame is repeated this often: some receivers show a frame only when the next one arrives.
REPEAT_SECONDS = 0.5
_CLOCK = Fraction(1, 90_000)


def fitted(width: int, height: int) -> tuple[int, int]:
    """The largest even size of the same aspect ratio that fits; never larger than the frame."""
    scale = min(1.0, WIDTH / width, HEIGHT / height)
    return max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)


class Encoder:
    """VP8 without lookahead. Not thread-safe."""

    def __init__(self) -> None:
        self._context: VideoCodecContext | None = None
        self._scale = VideoReformatter()

    def encode(self, video_frame: av.VideoFrame, pts: int, *, keyframe: bool) -> Packet | None:
        """The packet of `video_frame`, upright, at `pts` (90 kHz)."""
        if orientation_of(video_frame) != UPRIGHT:
            video_frame = av.VideoFrame.from_ndarray(show(video_frame), format="rgb24")
        width, height = fitted(video_frame.width, video_frame.height)
        context = self._context
        if context is None or (context.width, context.height) != (width, height):
            context = self._context = _context(width, height)
        scaled = self._scale.reformat(video_frame, width, height, "yuv420p")
        scaled.pts, scaled.time_base = pts, _CLOCK
        scaled.pict_type = PictureType.I if keyframe else PictureType.NONE
        packets = context.encode(scaled)
        return packets[0] if packets else None


def _context(width: int, height: int) -> VideoCodecContext:
    context = VideoCodecContext.create("libvpx", "w")
    assert isinstance(context, VideoCodecContext)  # noqa: S101 - libvpx is a video codec
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.bit_rate = BITS_PER_SECOND
    context.time_base = _CLOCK
    context.framerate = Fraction(FRAMES_PER_SECOND)
    context.gop_size = 1_000_000  # keyframes are requested by time
    context.thread_count = 1
    context.options = {"deadline": "realtime", "cpu-used": "-8", "lag-in-frames": "0", "error-resilient": "1"}
    return context


class Preview:
    """The encoder of one stream and its viewers. Its task runs while there are viewers."""

    def __init__(self, stream: Stream, executor: ThreadPoolExecutor) -> None:
        self.stream = stream
        self._executor = executor
        self._tracks: set[PreviewTrack] = set()
        self._newcomer = False
        self._task: asyncio.Task[None] | None = None
        self.encoded = 0

    @property
    def watched(self) -> bool:
        return bool(self._tracks)

    def join(self) -> PreviewTrack:
        """Add a viewer. Its track starts with a keyframe. Call `load_webrtc` before."""
        from streamcap.server.webrtc.preview_track import PreviewTrack

        track = PreviewTrack(self.leave)
        self._tracks.add(track)
        self.stream.watch()
        self._newcomer = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"preview-{self.stream.name}")
        return track

    def leave(self, track: PreviewTrack) -> None:
        """Remove a viewer; the encoder stops after the last one."""
        if track in self._tracks:
            self._tracks.remove(track)
            self.stream.unwatch()

    async def close(self) -> None:
        for track in list(self._tracks):
            track.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        loop, encoder = asyncio.get_running_loop(), Encoder()
        last_frame: object = None
        started_at = time.monotonic()
        sent_at = keyframe_at = started_at - KEYFRAME_SECONDS
        while self._tracks:
            now = time.monotonic()
            frame = await loop.run_in_executor(self._executor, self.stream.newest_frame)
            if frame is not None and (
                frame.video_frame is not last_frame or self._newcomer or now - sent_at >= REPEAT_SECONDS
            ):
                keyframe = self._newcomer or now - keyframe_at >= KEYFRAME_SECONDS
                self._newcomer = False
                last_frame, sent_at = frame.video_frame, now
                keyframe_at = now if keyframe else keyframe_at
                pts = round((now - started_at) / _CLOCK)
                if not await self._send(encoder, frame.video_frame, pts, keyframe=keyframe):
                    encoder = Encoder()
            await asyncio.sleep(max(0.0, now + 1 / FRAMES_PER_SECOND - time.monotonic()))

    async def _send(self, encoder: Encoder, video_frame: av.VideoFrame, pts: int, *, keyframe: bool) -> bool:
        """Encode one frame and queue it for every viewer. False: the encoder failed and must be replaced."""
        loop = asyncio.get_running_loop()
        try:
            packet = await loop.run_in_executor(self._executor, _encode, encoder, video_frame, pts, keyframe)
        except (av.FFmpegError, ValueError) as error:
            log.warning("preview of %s: %s", self.stream.name, error)
            return False
        if packet is not None:
            self.encoded += 1
            for track in self._tracks:
                track.offer(packet)
        return True


def _encode(encoder: Encoder, video_frame: av.VideoFrame, pts: int, keyframe: bool) -> Packet | None:
    return encoder.encode(video_frame, pts, keyframe=keyframe)
