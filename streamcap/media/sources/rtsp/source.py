"""`RtspSource`: cameras over RTSP, opened by libav through a relay, from which H.264 and H.265 are read."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
from av import Packet
from av.container import InputContainer
from av.video.stream import VideoStream

from streamcap.media.files.video_stream import best_video
from streamcap.media.sources.base import SourceLost
from streamcap.media.sources.libav.options import FORMATS, LIBAV_OPTIONS, RTSP_UDP, TRANSPORTS
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.rtsp.access_units import AccessUnit
from streamcap.media.sources.rtsp.messages import MessageError
from streamcap.media.sources.rtsp.relay import RtspRelay
from streamcap.media.sources.rtsp.rtp import CLOCK_RATE, RtpVideo, payload_types

log = logging.getLogger(__name__)

# Without its parser, libav knows the size only once it has seen the beginning of a picture.
_UNPARSED = {"fflags": "noparse+nofillin", "probesize": "4096"}
_READ_HERE = ("h264", "hevc")
# While no wanted picture is expected, what comes is read this often, and not packet by packet: each time a thread wakes
# up costs as much as reading dozens of packets. The kernel's buffer holds what comes meanwhile.
IDLE_READ_SECONDS = 0.1
# So long before the wanted picture is expected, packets are read as they come again.
_LEAD_SECONDS = 0.06


class RtspSource(LibavSource):
    """Over TCP, or over UDP where the camera refuses TCP.

    libav opens the session through an `RtspRelay`. H.264 and H.265 over TCP are then read from the relay; the rest is
    relayed to libav.
    """

    def __init__(
        self,
        url: str,
        options: SourceOptions,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(url, options, monotonic=monotonic, wall=wall)
        self._relay: RtspRelay | None = None
        self._video: RtpVideo | None = None
        """Of a session that is read from the relay."""

    def close(self) -> None:
        super().close()
        self._close_relay()

    def _close_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def _open_container(self) -> InputContainer:
        self._video = None
        try:
            container = self._open_with(_UNPARSED)
            if self._is_read_here(container):
                return container
            container.close()
            self._close_relay()
            return self._open_with({})
        except av.FFmpegError as error:
            if error.errno != errno.EPROTONOSUPPORT or self._scheme != "rtsp":
                raise
        # The error of libav for 461: the camera does not serve RTSP over TCP.
        log.warning("%s: it serves no RTSP over TCP (461); reading over UDP, where packets may be lost", self.url)
        self._transport = TRANSPORTS["rtp"]
        return self._open_with(RTSP_UDP)

    def _open_with(self, transport: dict[str, str]) -> InputContainer:
        timeouts = self._options.open_timeout, self._options.read_timeout
        options = {**LIBAV_OPTIONS["rtsp"], **transport, **self._limits}
        relay = RtspRelay(
            self._secret_url,
            self._guard,
            timeout=self._options.read_timeout,
            connect_timeout=self._options.open_timeout,
            monotonic=self._monotonic,
        )
        if transport is not _UNPARSED:
            relay.keep_relaying()
        try:
            container = av.open(relay.url, "r", format=FORMATS["rtsp"], options=options, timeout=timeouts)
        except av.FFmpegError:
            relay.close()
            if relay.fault is not None:
                raise relay.fault from None
            raise
        self._relay = relay
        return container

    def _is_read_here(self, container: InputContainer) -> bool:
        """Whether the video of the session, which libav has opened, is read from the relay from now on."""
        stream, relay = best_video(container), self._relay
        context = getattr(stream, "codec_context", None)
        if relay is None or stream is None or context is None:
            return True  # no video, or of a codec that libav does not know: refused later
        kinds = payload_types(relay.description)
        if context.name not in _READ_HERE or not kinds or not stream.id < len(relay.channels) or not relay.divert():
            return False
        self._video = RtpVideo(context.name, relay.channels[stream.id], kinds)
        return True

    def _demux(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        video, relay = self._video, self._relay
        if video is None or relay is None:
            yield from container.demux(stream)
            return
        base = stream.time_base or Fraction(1, CLOCK_RATE)
        try:
            for unit in self._pictures(relay, video):
                zero = video.wall_time_of_zero()
                if zero is not None:
                    self._capture_time.wall_minus_pts = zero
                yield _packet(unit, stream, base)
        except (OSError, MessageError) as error:
            yield from (_packet(unit, stream, base) for unit in video.flush())
            if isinstance(error, MessageError):
                raise SourceLost(f"{self.url}: what it sends is not RTSP: {error}") from None
            raise
        yield from (_packet(unit, stream, base) for unit in video.flush())
        end: Packet[Any] = Packet(0)
        end.stream = stream
        yield end

    def _pictures(self, relay: RtspRelay, video: RtpVideo) -> Iterator[AccessUnit]:
        """Until the camera ends the session. Raises as `RtspRelay.read`; TimeoutError if no picture comes."""
        since = self._monotonic()
        while not video.ended:
            runs = relay.read(since + self._options.read_timeout - self._monotonic())
            if runs is None:
                return
            for run in runs:
                for unit in video.feed(run):
                    yield unit
                    since = self._monotonic()
            if relay.is_drained and self._stopping.wait(self._read_pause(since)):
                return

    def _read_pause(self, read: float) -> float:
        """Seconds during which nothing has to be read. read: when the newest picture was."""
        idle = read + self._policy.idle() - _LEAD_SECONDS - self._monotonic()
        # A picture that was half read may be the wanted one if it comes earlier than expected.
        return min(idle, IDLE_READ_SECONDS) if idle > _LEAD_SECONDS else 0.0


def _packet(unit: AccessUnit, stream: VideoStream, time_base: Fraction) -> Packet[VideoStream]:
    packet: Packet[Any] = Packet(unit.data)
    packet.stream, packet.pts, packet.time_base, packet.is_keyframe = stream, unit.timestamp, time_base, unit.keyframe
    return packet
