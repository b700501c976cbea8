"""`RtspSource`: cameras over RTSP, directly or through a gate."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import av
from av import Packet
from av.container import InputContainer
from av.video.stream import VideoStream

from streamcap.media.sources.diagnosis import rtsp_challenges
from streamcap.media.sources.http.address import HostScope
from streamcap.media.sources.libav import LibavSource
from streamcap.media.sources.libav_options import FORMATS, LIBAV_OPTIONS, RTSP_UDP, TRANSPORTS
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.rtsp.access_units import AccessUnit, AccessUnits
from streamcap.media.sources.rtsp.gate import RtspGate

log = logging.getLogger(__name__)

_DIAGNOSIS_SECONDS = 2.0
_LIBAV_LOGINS = {"Basic", "Digest MD5"}
_SHA256 = "Digest SHA-256"
# libav's parser would hold each picture back until the next one begins (see `AccessUnits`).
# Without it, libav knows the size only once it has seen the beginning of a picture.
_UNPARSED = {"fflags": "noparse+nofillin", "probesize": "4096"}
_JOINED = ("h264", "hevc")


class RtspSource(LibavSource):
    """Over TCP, or over UDP where the camera refuses TCP.

    libav connects itself to what the owner of the service named on a private network. Everything else goes through an
    `RtspGate`, and so does a camera that offers only SHA-256 logins.
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
        self._gate: RtspGate | None = None
        self._unparsed = False

    def close(self) -> None:
        super().close()
        self._close_gate()

    def _close_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.close()

    def _open_container(self) -> InputContainer:
        if not self._is_trusted():
            return self._open_transport(gated=True)
        try:
            return self._open_transport(gated=False)
        except av.error.HTTPUnauthorizedError:
            if not self._needs_sha256():
                raise
        log.info("%s: it offers only SHA-256 logins; reading through a relay on the loopback", self.url)
        return self._open_transport(gated=True)

    def _is_trusted(self) -> bool:
        if self._options.scope is not HostScope.ANY:
            return False
        try:
            self._guard.resolve(urlsplit(self._secret_url).hostname or "", 0)
        except OSError:
            return True  # libav fails on it too, and says how
        return self._guard.own_is_private

    def _needs_sha256(self) -> bool:
        if urlsplit(self._secret_url).username is None:
            return False
        offered = set(rtsp_challenges(self._secret_url, self._guard, timeout=_DIAGNOSIS_SECONDS))
        return _SHA256 in offered and not offered & _LIBAV_LOGINS

    def _open_transport(self, *, gated: bool) -> InputContainer:
        self._unparsed = True
        try:
            container = self._open_with(_UNPARSED, gated=gated)
            contexts = [stream.codec_context for stream in container.streams.video]
            # No context: a codec that libav does not know, which is refused later.
            if all(context is None or context.name in _JOINED for context in contexts):
                return container
            self._unparsed = False
            container.close()
            self._close_gate()
            return self._open_with({}, gated=gated)
        except av.FFmpegError as error:
            if error.errno != errno.EPROTONOSUPPORT or self._scheme != "rtsp":
                raise
        self._unparsed = False
        # The error of libav for 461: the camera does not serve RTSP over TCP.
        log.warning("%s: it serves no RTSP over TCP (461); reading over UDP, where packets may be lost", self.url)
        self._transport = TRANSPORTS["rtp"]
        return self._open_with(RTSP_UDP, gated=gated)

    def _open_with(self, transport: dict[str, str], *, gated: bool) -> InputContainer:
        timeouts = self._options.open_timeout, self._options.read_timeout
        scheme = "rtsp" if gated else self._scheme
        options = {**LIBAV_OPTIONS[scheme], **transport, **self._limits}
        if not gated:
            return av.open(self._secret_url, "r", format=FORMATS[scheme], options=options, timeout=timeouts)
        gate = RtspGate(self._secret_url, self._guard, timeout=self._options.read_timeout)
        try:
            container = av.open(gate.url, "r", format=FORMATS[scheme], options=options, timeout=timeouts)
        except av.FFmpegError:
            gate.close()
            if gate.fault is not None:
                raise gate.fault from None
            raise
        self._gate = gate
        return container

    def _demux(self, container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        if not self._unparsed:
            yield from container.demux(stream)
            return
        units, timestamp = AccessUnits(stream.codec_context.name), None
        try:
            for part in container.demux(stream):
                if not part.size:  # the end
                    yield from (_packet(unit, stream) for unit in units.flush())
                    yield part
                    return
                if part.pts != timestamp:
                    timestamp = part.pts
                    self._note_capture_time(part)
                for unit in units.feed(bytes(part), timestamp):
                    yield _packet(unit, stream)
        except (av.FFmpegError, OSError):
            yield from (_packet(unit, stream) for unit in units.flush())
            raise


def _packet(unit: AccessUnit, stream: VideoStream) -> Packet[VideoStream]:
    packet: Packet[Any] = Packet(unit.data)
    packet.stream, packet.pts = stream, unit.timestamp
    if stream.time_base is not None:
        packet.time_base = stream.time_base
    packet.is_keyframe = unit.keyframe
    return packet
