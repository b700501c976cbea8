"""`LibavSource`: cameras, network streams, webcams and files through libav."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream

from streamcap.errors import InputError
from streamcap.media.containers import file_format
from streamcap.media.demand import FrameChoice, FrameDemand
from streamcap.media.files.heif import is_still_container
from streamcap.media.files.video_stream import best_video, describe_choice
from streamcap.media.frame import Frame
from streamcap.media.orientation import sample_aspect
from streamcap.media.sources.address import HostGuard, HostScope
from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceLost, SourceRefused
from streamcap.media.sources.decoding.decode_policy import DecodePolicy
from streamcap.media.sources.decoding.hardware import open_hwaccel
from streamcap.media.sources.decoding.selective_decoder import SelectiveDecoder
from streamcap.media.sources.http.jpeg import jpeg_size
from streamcap.media.sources.libav.capture_time import CaptureTime
from streamcap.media.sources.libav.errors import HUNG_UP, describe_error, open_error
from streamcap.media.sources.libav.options import FORMATS, LIBAV_OPTIONS, PINNED, TRANSPORTS, pinned
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.pacer import Pacer
from streamcap.media.sources.srt import SourceTimeoutError, SrtPipe
from streamcap.media.sources.url import NETWORK, file_path, scheme_of, webcam_device
from streamcap.media.timing.clock import JUMP_AHEAD_SECONDS, MediaClock
from streamcap.media.timing.wait_clock import WaitClock
from streamcap.redact import redact

log = logging.getLogger(__name__)

NO_FRAME_SECONDS = 15.0
"""Data without a frame for this long (or three read timeouts) means that the source is lost."""
FINE = Fraction(1, 90_000)
"""Time base for sources without one."""


@dataclass(slots=True)
class _Counts:
    frames: int = 0
    decode_errors: int = 0


class LibavSource(Source):
    """One connection to anything that libav reads.

    Live sources yield frames as they arrive; nothing is dropped here. Finite sources and HLS, whose segments arrive at
    once, are played in real time unless `options.realtime` is off.

    Parameters:
        url: checked by `check_url`, with its secrets; `self.url` is redacted.
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
        self._scheme = scheme_of(url)
        self._network = self._scheme in NETWORK
        self._options = options
        self._guard = HostGuard(url, options.scope)
        self._monotonic = monotonic
        self._wall = wall
        self._transport = TRANSPORTS.get(self._scheme, "")
        self._stopping = threading.Event()
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._pipe: SrtPipe | None = None
        self._clock = MediaClock()
        self._pacer: Pacer | None = None
        self._finite = False
        self._untimed = False
        self._counts = _Counts()
        self._policy = DecodePolicy(FrameDemand(decode="all"))
        self._decoder = SelectiveDecoder(self._policy, self._note_damage)
        self._skipped_at: float | None = None
        self._damaged = False
        """Whether a packet could not be decoded since the last frame."""
        self._capture_time = CaptureTime()
        self._packet_arrived = 0.0
        self._waits = self.waits = WaitClock()
        self._silent = False
        """Whether a read timed out."""

    def open(self) -> SourceInfo:
        started = self._monotonic()
        try:
            container = self._container = self._open_container()
        except av.FFmpegError as error:
            if self._pipe is not None:
                refused = self._pipe.open_error()
                self.close()
                raise refused from None
            raise open_error(
                error,
                self._secret_url,
                self._guard,
                network=self._network,
                waited=self._monotonic() - started,
                open_timeout=self._options.open_timeout,
            ) from None
        except SourceTimeoutError:
            self.close()
            late = f"{self.url}: no answer within {self._options.open_timeout:g} s"
            raise SourceRefused(late, retry=True, timed_out=True) from None
        except SourceRefused:
            raise
        except InputError as error:
            raise SourceRefused(str(error), retry=self._scheme == "webcam") from None
        stream = self._stream = best_video(container)
        if stream is None:
            what = "there is audio, but no video in it" if container.streams.audio else "there is no video in it"
            self.close()
            raise SourceRefused(f"{self.url}: {what}", retry=False)
        if getattr(stream, "codec_context", None) is None:  # of a codec that libav does not know
            self.close()
            raise SourceRefused(f"{self.url}: this build of libav has no decoder for its video", retry=False)
        if (choice := describe_choice(container, stream)) is not None:
            log.info("%s: %s", self.url, choice)
        return self._prepare(container, stream)

    def frames(self) -> Iterator[Frame]:
        container, stream = self._container, self._stream
        if container is None or stream is None:
            raise SourceLost(f"{self.url}: not open")
        last_frame_at = self._monotonic()
        max_silence = self._max_silence
        for packet in self._packets(container, stream):
            if self._stopping.is_set():
                return
            arrived = self._packet_arrived
            wall = self._wall() - (self._monotonic() - arrived)
            self._capture_time.note(packet)
            self._policy.catch_up = self.catch_up
            skipped = self._decoder.skipped
            for video_frame in self._decode(packet):
                last_frame_at = arrived
                frame = self._timed(video_frame, stream, arrived, wall)
                if frame is None:
                    return
                yield frame
                if self._stopping.is_set():
                    return
                # Timestamps that are ignored say nothing about when a frame is due.
                self._policy.took(None if self._clock.by_arrival or self._untimed else _seconds(video_frame, stream))
            if self._decoder.skipped > skipped and self._counts.frames and not (self._damaged or self.catch_up):
                last_frame_at = self._skipped_at = arrived
            if self._silent:
                raise SourceLost(self._silence)
            if arrived - last_frame_at > max_silence:
                raise SourceLost(f"{self.url}: data comes, but no frame for {max_silence:g} s")
        if self._stopping.is_set():
            return
        if self._finite:
            if not self._counts.frames:
                raise SourceEnded(f"{self.url}: it ended without a frame that could be decoded")
            raise SourceEnded(f"{self.url}: it was played to its end")
        raise SourceLost(f"{self.url}: the other side closed the stream")

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                container.close()
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def skipped_at(self) -> float | None:
        return self._skipped_at

    def frame_choice(self) -> FrameChoice:
        return self._policy.frame_choice()

    def statistics(self) -> dict[str, int]:
        return {
            "frames": self._counts.frames,
            "decode_errors": self._counts.decode_errors,
            "repaired_pts": self._clock.repaired,
            "epochs": self._clock.epochs,
            "dropped": 0,
            "skipped": self._decoder.skipped,
        }

    def _open_container(self) -> InputContainer:
        name = self._secret_url
        if self._scheme == "webcam":
            name = webcam_device(self._secret_url)
        elif self._scheme == "file":
            path = file_path(self._secret_url)
            if is_still_container(path):
                raise SourceRefused(f"{self.url}: an image, not a video; use `streamcap caption`", retry=False)
            name = f"file:{path}"
        timeout = (self._options.open_timeout, self._options.read_timeout) if self._network else None
        options: dict[str, Any] = {**LIBAV_OPTIONS[self._scheme], **self._limits}
        if self._options.scope is not HostScope.ANY and self._scheme in PINNED and urlsplit(name).hostname:
            name, more = pinned(name, self._guard)
            options |= more
        try:
            return av.open(
                name,
                "r",
                format=self._format(),
                options=options,
                timeout=timeout,
                hwaccel=open_hwaccel(self._options.hwaccel),
            )
        except av.error.ProtocolNotFoundError:
            if self._scheme != "srt":
                raise
            return self._open_pipe(name)

    def _format(self) -> str | None:
        if self._scheme == "file":
            return file_format(file_path(self._secret_url))
        return FORMATS.get(self._scheme)

    def _open_pipe(self, url: str) -> InputContainer:
        self._pipe = SrtPipe(
            url,
            open_timeout=self._options.open_timeout,
            read_timeout=self._options.read_timeout,
            stopping=self._stopping,
        )
        return av.open(self._pipe, "r", format=FORMATS["srt"], options={**LIBAV_OPTIONS["srt"], **self._limits})

    def _prepare(self, container: InputContainer, stream: VideoStream) -> SourceInfo:
        context = stream.codec_context
        self._check_size((context.width, context.height), SourceRefused)
        # Decoders check the limit before they allocate a frame, also if the size changes later.
        context.options = self._limits
        # Frame threads would delay one frame each.
        context.thread_type = "SLICE"
        context.thread_count = 1
        self._policy = DecodePolicy(self.demand or FrameDemand(decode="all"))
        self._decoder = SelectiveDecoder(self._policy, self._note_damage)
        kind = container.format.name
        self._finite = self._is_finite(container)
        # Its parts have no timestamps; libav would invent them from a guessed rate.
        self._untimed = kind == "mpjpeg"
        rate = stream.average_rate or stream.guessed_rate
        self._clock = MediaClock(
            jump_ahead=None if self._finite else JUMP_AHEAD_SECONDS,
            # HLS segments arrive at once.
            check_rate="hls" not in kind,
            interval=1 / Fraction(rate) if self._finite and rate else None,
        )
        if self._options.realtime and (self._finite or "hls" in kind):
            self._pacer = Pacer(self._monotonic)
        return SourceInfo(
            width=context.width,
            height=context.height,
            frames_per_second=float(rate or 0),
            codec=context.name,
            live=not self._finite,
            audio=next((audio.codec_context.name for audio in container.streams.audio), ""),
            transport=self._transport,
        )

    def _is_finite(self, container: InputContainer) -> bool:
        """Whether it is played in real time, once to its end."""
        return self._scheme == "file"

    @property
    def _max_silence(self) -> float:
        return max(NO_FRAME_SECONDS, 3 * self._options.read_timeout)

    @property
    def _silence(self) -> str:
        return f"{self.url}: no frame came for {self._options.read_timeout:g} s"

    @property
    def _limits(self) -> dict[str, str]:
        return {"max_pixels": str(self._options.max_pixels)}

    def _check_size(self, size: tuple[int, int], kind: type[SourceRefused] | type[SourceLost]) -> None:
        """Raises `kind` if frames of `size` exceed `options.max_pixels`."""
        width, height = size
        if width * height <= self._options.max_pixels:
            return
        limit = f"{self._options.max_pixels / 1e6:g} megapixels"
        message = f"{self.url}: its frames are {width}×{height}, above the limit of {limit}; set the camera to less"
        self.close()
        raise SourceRefused(message, retry=self._network) if kind is SourceRefused else SourceLost(message)

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Packets until the source ends. Errors of libav become SourceEnded or SourceLost."""
        packets = self._demux(container, stream)
        while True:
            waited_since = self._monotonic()
            self._waits.begin(waited_since)
            try:
                packet = next(packets)
            except StopIteration:
                return
            except SourceTimeoutError:
                raise SourceLost(f"{self.url}: no data for {self._options.read_timeout:g} s") from None
            except (av.FFmpegError, OSError) as error:  # OSError: of a file in Python that libav reads
                if self._stopping.is_set():
                    return
                if self._finite:
                    self._counts.decode_errors += 1
                    raise SourceEnded(f"{self.url}: it breaks off: {describe_error(error)}") from None
                if self._network and self._monotonic() - waited_since >= self._options.read_timeout:
                    raise SourceLost(self._silence) from None
                if self._network and error.errno in HUNG_UP:
                    return
                raise SourceLost(f"{self.url}: {describe_error(error)}") from None
            self._packet_arrived = self._monotonic()
            self._waits.end(self._packet_arrived)
            if self._network and self._packet_arrived - waited_since >= self._options.read_timeout:
                # At a timeout libav returns the packet it held back, whose bytes came before the silence.
                self._packet_arrived, self._silent = waited_since, True
            if self.on_packet is not None and packet.size:
                self.on_packet(packet, self._packet_arrived)
            yield packet

    def _demux(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Packets of whole pictures; one without data at the end."""
        return container.demux(stream)

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """The frames that a packet completes. Damaged frames are dropped and counted."""
        video_frames = self._decoder.decode(packet)
        if video_frames:
            self._damaged = False
            self._counts.decode_errors += sum(video_frame.is_corrupt for video_frame in video_frames)
        return video_frames

    def _note_damage(self, packet: Packet[VideoStream], error: av.FFmpegError) -> None:
        self._counts.decode_errors += 1
        self._damaged = True
        if packet.stream.codec_context.name == "mjpeg":
            self._check_size(jpeg_size(bytes(packet)) or (0, 0), SourceLost)
        log.debug("%s: a packet could not be decoded: %s", self.url, describe_error(error))

    def _timed(self, video_frame: VideoFrame, stream: VideoStream, arrived: float, wall: float) -> Frame | None:
        """The frame with its times, once it is due; None after `stop`."""
        self._counts.frames += 1
        pts = video_frame.pts if video_frame.pts is not None else video_frame.dts
        base = video_frame.time_base or stream.time_base or FINE
        stamp = self._clock.stamp(None, FINE, arrived) if self._untimed else self._clock.stamp(pts, base, arrived)
        if self._pacer is not None:
            self._waits.begin(self._monotonic())
            if self._stopping.wait(self._pacer.wait(stamp.epoch, stamp.time)):
                return None
            self._waits.end(self._monotonic())
            # Played as if captured now.
            arrived, wall = self._monotonic(), self._wall()
        captured_at, captured_at_source = self._capture_time.of(video_frame, wall)
        return Frame(
            video_frame=video_frame,
            pts=stamp.pts,
            time_base=stamp.time_base,
            time=stamp.time,
            epoch=stamp.epoch,
            arrived=arrived,
            captured_at=captured_at,
            captured_at_source=captured_at_source,
            spacing=self._policy.spacing,
            sample_aspect=sample_aspect(stream),
        )


def _seconds(video_frame: VideoFrame, stream: VideoStream) -> float | None:
    pts, base = video_frame.pts, video_frame.time_base or stream.time_base
    return None if pts is None or base is None else float(pts * base)
