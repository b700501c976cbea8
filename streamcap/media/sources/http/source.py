"""`HttpSource`: detects what an HTTP URL sends. Decodes streamed or polled JPEGs itself, everything else with libav."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator

import av
import numpy as np
from av import VideoFrame

from streamcap.errors import InputError
from streamcap.media.cpu_slots import cpu_slot
from streamcap.media.demand import FrameDemand
from streamcap.media.files.image_file import decode_image
from streamcap.media.frame import Frame
from streamcap.media.sources.base import Source, SourceInfo, SourceLost, SourceRefused
from streamcap.media.sources.decoding.decode_policy import Action, DecodePolicy
from streamcap.media.sources.diagnosis import connection_fault, wrong_protocol
from streamcap.media.sources.http.client import HttpClient
from streamcap.media.sources.http.files import MAX_PLAYLIST_BYTES, NestedFiles, VideoFile, read_all, read_some
from streamcap.media.sources.http.hls import PLAYLIST_START, choose_rendition, with_absolute_urls
from streamcap.media.sources.http.jpeg import START, JpegSplitter, jpeg_size
from streamcap.media.sources.http.video import HttpVideoSource
from streamcap.media.sources.libav.source import FINE
from streamcap.media.sources.options import SourceOptions
from streamcap.media.timing.clock import MediaClock
from streamcap.media.timing.wait_clock import WaitClock
from streamcap.redact import redact

log = logging.getLogger(__name__)

_READ_BYTES = 65_536
_HEAD_BYTES = 512
MAX_IMAGE_BYTES = 32_000_000
_OTHER_IMAGE_TYPES = (
    "image/png", "image/webp", "image/avif", "image/bmp", "image/x-ms-bmp", "image/heic", "image/heif",
)  # fmt: skip
_JPEG_TYPES = ("multipart/", "image/jpeg", "image/jpg", "image/pjpeg")


class HttpSource(Source):
    """One connection to an HTTP URL.

    A stream of JPEGs is read as it arrives, with or without multipart headers. A URL that returns a single JPEG or
    another image is polled as often as frames are wanted, at least every `options.poll_interval` seconds. Of an HLS
    master playlist, one rendition is read. JPEGs have no timestamps and are timed by arrival. Of a stream of JPEGs,
    unwanted ones are not decoded.
    """

    def __init__(
        self,
        url: str,
        options: SourceOptions,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.url = redact(url)
        self._secret_url = url
        self._options = options
        self._monotonic = monotonic
        self._wall = wall
        self._stopping = threading.Event()
        self._inner: HttpVideoSource | None = None
        self._client = HttpClient(url, timeout=options.read_timeout, scope=options.scope)
        self._response: http.client.HTTPResponse | None = None
        self._splitter = JpegSplitter()
        self._waiting: list[bytes] = []
        self._polled = False
        self._is_other_image = False
        """Whether the URL is polled for an image other than a JPEG."""
        self._waits = self.waits = WaitClock()
        self._clock = MediaClock()
        self._decoder = av.VideoCodecContext.create("mjpeg", "r")
        self._decoder.options = {"max_pixels": str(options.max_pixels)}
        self._policy = DecodePolicy(FrameDemand(decode="all"))
        self._skipped_at: float | None = None
        self._skipped = 0
        self._frames = 0
        self._decode_errors = 0

    def open(self) -> SourceInfo:
        started = self._monotonic()
        try:
            response = self._response = self._client.get()
            first = response.read1(_READ_BYTES)
            content_type = (response.headers.get("Content-Type") or "").lower()
            if content_type.startswith(_OTHER_IMAGE_TYPES):
                return self._open_other_image(response, first)
            if not (content_type.startswith(_JPEG_TYPES) or first.startswith(START) or _looks_like_parts(first)):
                return self._open_libav(response, first)
            self._waiting = self._splitter.feed(first)
            while not self._waiting and self._monotonic() - started < self._options.open_timeout:
                self._waiting = self._more()
        except SourceLost as lost:
            self.close()
            raise SourceRefused(str(lost), retry=True) from None
        except SourceRefused:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise SourceRefused(f"{self.url}: {self._fault(error)}", retry=True) from None
        size = jpeg_size(self._waiting[0]) if self._waiting else None
        if size is None:
            self.close()
            late = f"{self.url}: no JPEG came within {self._options.open_timeout:g} s"
            raise SourceRefused(late, retry=True, timed_out=True)
        self._check_size(size)
        return SourceInfo(
            width=size[0], height=size[1], frames_per_second=0.0, codec="mjpeg", live=True, transport="HTTP"
        )

    def frames(self) -> Iterator[Frame]:
        if self._inner is not None:
            # The thread that watches reads these of this source.
            self.waits = self._inner.waits
            self._inner.on_packet = self.on_packet
            for frame in self._inner.frames():
                self._inner.catch_up = self.catch_up
                yield frame
            return
        self._policy = DecodePolicy(self.demand or FrameDemand(decode="all"))
        while not self._stopping.is_set():
            for data in self._waiting:
                arrived, wall = self._monotonic(), self._wall()
                if not self._polled and self._policy.choose(keyframe=True, time=arrived) is not Action.DECODE:
                    self._skipped_at = arrived
                    self._skipped += 1
                    continue
                for video_frame in self._decode(data):
                    yield self._timed(video_frame, arrived, wall)
                    if self._stopping.is_set():
                        return
                self._policy.took(arrived)
            self._waiting = self._next()

    def stop(self) -> None:
        self._stopping.set()
        if self._inner is not None:
            self._inner.stop()

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                response.close()

    def skipped_at(self) -> float | None:
        return self._skipped_at if self._inner is None else self._inner.skipped_at()

    def statistics(self) -> dict[str, int]:
        if self._inner is not None:
            return self._inner.statistics()
        return {
            "frames": self._frames,
            "decode_errors": self._decode_errors + self._splitter.dropped,
            "repaired_pts": self._clock.repaired,
            "epochs": self._clock.epochs,
            "dropped": 0,
            "skipped": self._skipped,
        }

    def _open_other_image(self, response: http.client.HTTPResponse, first: bytes) -> SourceInfo:
        """A URL of a PNG or another image that is no JPEG, which is polled."""
        with response:
            self._waiting = [first + self._read_all(response, MAX_IMAGE_BYTES)]
        self._polled = self._is_other_image = True
        video_frames = self._decode(self._waiting[0])
        if not video_frames:
            kind = response.headers.get("Content-Type") or ""
            raise SourceRefused(f"{self.url}: its image ({redact(kind)[:40]}) cannot be decoded", retry=True)
        width, height = video_frames[0].width, video_frames[0].height
        return SourceInfo(width=width, height=height, frames_per_second=0.0, codec="image", live=True, transport="HTTP")

    def _open_libav(self, response: http.client.HTTPResponse, first: bytes) -> SourceInfo:
        self._response = None
        url, file = self._secret_url, None
        if first.lstrip(b"\xef\xbb\xbf").startswith(PLAYLIST_START):
            url, playlist = self._playlist(response, first)
            file = playlist
        video = VideoFile(self._client, response, first) if file is None else None
        if video is not None and video.index_is_out_of_reach:
            video.close()
            raise SourceRefused(
                f"{self.url}: an MP4 with its index (moov box) at its end, and the server does not send its length; "
                "write the index first (-movflags +faststart)",
                retry=True,
            )
        files = NestedFiles(
            self._client,
            video or io.BytesIO(file or b""),
            self._stopping.is_set,
            max_silence=self._options.open_timeout,
            monotonic=self._monotonic,
        )
        self._inner = HttpVideoSource(
            url,
            self._options,
            files,
            finite=video is not None and video.finite,
            monotonic=self._monotonic,
            wall=self._wall,
        )
        self._inner.demand = self.demand
        return self._inner.open()

    def _playlist(self, response: http.client.HTTPResponse, first: bytes) -> tuple[str, bytes]:
        """The URL and the text of the playlist to read: of a master playlist, of the rendition it chooses."""
        url = self._secret_url
        with response:
            text = (first + self._read_all(response, MAX_PLAYLIST_BYTES)).decode(errors="replace")
        rendition = choose_rendition(text, response.url)
        if rendition is not None:
            log.info("%s: of its renditions %s is read", self.url, redact(rendition))
            url = rendition
            with self._client.get(url) as response:
                text = self._read_all(response, MAX_PLAYLIST_BYTES).decode(errors="replace")
        # libav does not take a byte order mark.
        return url, with_absolute_urls(text.removeprefix("\ufeff"), response.url).encode()

    def _read_all(self, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
        """All of `response`, or its first `max_bytes`. Raises SourceLost if that takes longer than `open_timeout`, or
        after `stop`; OSError, HTTPException."""
        deadline = self._monotonic() + self._options.open_timeout

        def check() -> None:
            if self._stopping.is_set() or self._monotonic() > deadline:
                raise SourceLost(f"{self.url}: what it sends is not complete within {self._options.open_timeout:g} s")

        return read_all(functools.partial(read_some, response), max_bytes, check)

    def _next(self) -> list[bytes]:
        """The next JPEGs; empty if none is due yet."""
        if self._polled:
            return self._poll()
        try:
            return self._more()
        except SourceLost:
            # A single JPEG per request: poll the URL.
            if self._frames > 1:
                raise
            self._polled = True
            return []

    def _more(self) -> list[bytes]:
        """Read on and return the completed JPEGs. Raises SourceLost."""
        response = self._response
        if response is None:
            raise SourceLost(f"{self.url}: not open")
        self._waits.begin(self._monotonic())
        try:
            data = response.read1(_READ_BYTES)
        except TimeoutError:
            raise SourceLost(f"{self.url}: no data for {self._options.read_timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise SourceLost(f"{self.url}: {_words(error)}") from None
        finally:
            self._waits.end(self._monotonic())
        if not data:
            raise SourceLost(f"{self.url}: the other side closed the stream")
        return self._splitter.feed(data)

    def _poll(self) -> list[bytes]:
        self._waits.begin(self._monotonic())
        wanted = self.demand.every if self.demand is not None else 0.0
        if self._stopping.wait(min(self._options.poll_interval, wanted or self._options.poll_interval)):
            return []
        self.close()
        self._splitter = JpegSplitter()
        try:
            response = self._response = self._client.get()
            self._waits.end(self._monotonic())
            if self._is_other_image:
                return [self._read_all(response, MAX_IMAGE_BYTES)]
            deadline = self._monotonic() + self._options.read_timeout
            while self._monotonic() < deadline:
                images = self._more()
                if images:
                    return images
        except SourceRefused as refused:
            raise SourceLost(str(refused)) from None
        except (OSError, http.client.HTTPException) as error:
            raise SourceLost(f"{self.url}: {_words(error)}") from None
        raise SourceLost(f"{self.url}: no complete JPEG within {self._options.read_timeout:g} s")

    def _decode(self, data: bytes) -> list[VideoFrame]:
        size = jpeg_size(data)
        try:
            if size is not None:
                self._check_size(size)
            with cpu_slot:
                return [self._decode_image(data)] if self._is_other_image else self._decoder.decode(av.Packet(data))
        except SourceRefused as refused:
            raise SourceLost(str(refused)) from None
        except (av.FFmpegError, InputError) as error:
            self._decode_errors += 1
            log.debug("%s: a JPEG could not be decoded: %s", self.url, error)
            return []

    def _decode_image(self, data: bytes) -> VideoFrame:
        image = decode_image(data)
        self._check_size(image.size)
        return VideoFrame.from_ndarray(np.asarray(image), format="rgb24")

    def _check_size(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self._options.max_pixels:
            limit = f"{self._options.max_pixels / 1e6:g} megapixels"
            self.close()
            message = f"{self.url}: its frames are {size[0]}×{size[1]}, above the limit of {limit}"
            raise SourceRefused(f"{message}; set the camera to less", retry=True)

    def _timed(self, video_frame: VideoFrame, arrived: float, wall: float) -> Frame:
        self._frames += 1
        stamp = self._clock.stamp(None, FINE, arrived)
        return Frame(
            video_frame=video_frame,
            pts=stamp.pts,
            time_base=stamp.time_base,
            time=stamp.time,
            epoch=stamp.epoch,
            arrived=arrived,
            captured_at=wall,
            captured_at_source="arrival",
            spacing=self._policy.spacing,
        )

    def _fault(self, error: Exception) -> str:
        timeout = self._options.read_timeout
        if isinstance(error, OSError):
            fault = connection_fault(self._secret_url, self._client.guard, timeout=min(2.0, timeout))
            if fault is not None:
                return fault
        other = wrong_protocol(self._secret_url, self._client.guard, timeout=min(2.0, timeout))
        if other is not None:
            return other
        if isinstance(error, TimeoutError):
            return f"it takes connections, but sent nothing for {timeout:g} s"
        return _words(error)


def _looks_like_parts(first: bytes) -> bool:
    """Whether a response of any type begins like a stream of JPEGs with multipart headers."""
    head = first[:_HEAD_BYTES].lower()
    return head.lstrip().startswith((b"--", b"content-type:")) and b"image/j" in head


def _words(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected | ConnectionError | http.client.IncompleteRead):
        return "the other side closed the connection"
    if isinstance(error, http.client.HTTPException):
        return "what it sent is no HTTP response"
    return redact(getattr(error, "strerror", None) or error)
