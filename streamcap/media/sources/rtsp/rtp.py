"""`RtpVideo`: pictures and sender reports from the RTP and RTCP packets of one video (RFC 3550). Pure."""

from __future__ import annotations

import re
import struct

from streamcap.media.sources.rtsp.access_units import AccessUnit, AccessUnits

CLOCK_RATE = 90_000
"""Of the timestamps of H.264 and H.265."""
_HEADER = struct.Struct(">BBHI")
_HEADER_BYTES = 12
_SENDER_REPORT, _BYE = 200, 203
_REPORT = struct.Struct(">4xIII")
_SECONDS_1900_TO_1970 = 2_208_988_800
_PAYLOAD_TYPE = re.compile(r"^a=rtpmap:(\d{1,3})[ \t]+(?:H264|H265|HEVC)/90000[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
# Packets in another order than the pictures need.
_INTERLEAVED = re.compile(r"packetization-mode=2|sprop-max-don-diff=[1-9]|sprop-depack-buf-nalus=[1-9]", re.IGNORECASE)


def payload_types(description: str) -> frozenset[int]:
    """The payload types of H.264 and H.265 in a session description (SDP); none if they are sent in another order."""
    if _INTERLEAVED.search(description):
        return frozenset()
    return frozenset(int(number) for number in _PAYLOAD_TYPE.findall(description))


class RtpVideo:
    """Reads the interleaved frames of an RTSP connection (RFC 2326, 10.12).

    Timestamps of pictures begin with 0 and go on where those of RTP, which have 32 bits, begin again.

    Parameters:
        codec: "h264" or "hevc".
        channel: of its RTP; the next one is that of its RTCP.
        payload_types: others on the channel, such as those of retransmissions, are ignored.
    """

    def __init__(self, codec: str, channel: int, payload_types: frozenset[int]) -> None:
        self.ended = False
        """Whether the sender said that it has ended."""
        self._channel = channel
        self._payload_types = payload_types
        self._units = AccessUnits(codec)
        self._next: int | None = None
        """The expected sequence number."""
        self._rtp_timestamp: int | None = None
        self._timestamp = 0
        self._report: tuple[float, int] | None = None

    def feed(self, frames: bytes) -> list[AccessUnit]:
        """The pictures that `frames`, whole interleaved frames, complete or end."""
        units: list[AccessUnit] = []
        at = 0
        while at + 4 <= len(frames):
            channel, start = frames[at + 1], at + 4
            at = start + (frames[at + 2] << 8 | frames[at + 3])
            if channel == self._channel:
                units += self._read_packet(frames, start, at)
            elif channel == self._channel + 1:
                self._read_control(frames[start:at])
        return units

    def flush(self) -> list[AccessUnit]:
        """The picture whose end has not been seen, if there is one."""
        return self._units.flush()

    def wall_time_of_zero(self) -> float | None:
        """Seconds since 1970 of timestamp 0 by the last sender report; None before the first."""
        if self._report is None or self._rtp_timestamp is None:
            return None
        wall, rtp_timestamp = self._report
        return wall - (self._timestamp + _signed(rtp_timestamp - self._rtp_timestamp)) / CLOCK_RATE

    def _read_packet(self, frames: bytes, at: int, end: int) -> list[AccessUnit]:
        if end - at < _HEADER_BYTES:
            return []
        flags, kind, number, rtp_timestamp = _HEADER.unpack_from(frames, at)
        if flags >> 6 != 2 or kind & 0x7F not in self._payload_types:
            return []
        at += _HEADER_BYTES + 4 * (flags & 0x0F)
        if flags & 0x10:
            at += 4 + 4 * int.from_bytes(frames[at + 2 : at + 4])
        if flags & 0x20:
            end -= frames[end - 1]
        lost = self._next is not None and number != self._next
        self._next = number + 1 & 0xFFFF
        if rtp_timestamp != self._rtp_timestamp:
            if self._rtp_timestamp is not None:
                self._timestamp += _signed(rtp_timestamp - self._rtp_timestamp)
            self._rtp_timestamp = rtp_timestamp
        return self._units.feed(frames[at:end], self._timestamp, marker=kind > 0x7F, lost=lost)

    def _read_control(self, packets: bytes) -> None:
        at = 0
        while at + 4 <= len(packets):
            kind, end = packets[at + 1], at + 4 + 4 * int.from_bytes(packets[at + 2 : at + 4])
            if kind == _SENDER_REPORT and at + 20 <= len(packets):
                seconds, fraction, rtp_timestamp = _REPORT.unpack_from(packets, at + 4)
                self._report = seconds + fraction / 2**32 - _SECONDS_1900_TO_1970, rtp_timestamp
            elif kind == _BYE:
                self.ended = True
            at = end


def _signed(difference: int) -> int:
    """A difference of two 32-bit timestamps, the shorter way round."""
    return (difference + 0x8000_0000 & 0xFFFF_FFFF) - 0x8000_0000
