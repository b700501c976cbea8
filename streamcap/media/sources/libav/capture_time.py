"""`CaptureTime`: when a camera captured a frame, by its own clock where its RTCP sender reports are believable."""

from __future__ import annotations

import struct

from av import Packet, VideoFrame
from av.video.stream import VideoStream

from streamcap.capture_clock import CaptureClock

MAX_AHEAD_SECONDS = 0.25
"""Ignore a capture time that is later than arrival by more than this."""
MAX_BEHIND_SECONDS = 10.0
"""Ignore one that is earlier than arrival by more than this, which no network explains."""


class CaptureTime:
    """Relates the timestamps of one connection to the camera's wall clock. Pure."""

    def __init__(self) -> None:
        self.wall_minus_pts: float | None = None
        """Seconds since 1970 at which the timestamp was 0; None before the first report."""

    def note(self, packet: Packet[VideoStream]) -> None:
        """Read the sender report that libav adds to a packet, if there is one."""
        if packet.pts is None or packet.time_base is None or not packet.has_sidedata("prft"):
            return
        # AVProducerReferenceTime (libavcodec/defs.h): int64 wallclock in µs since 1970, int flags.
        microseconds = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))[0]
        self.wall_minus_pts = microseconds / 1e6 - float(packet.pts * packet.time_base)

    def of(self, video_frame: VideoFrame, arrived: float) -> tuple[float, CaptureClock]:
        """The capture time, seconds since 1970, of a frame that arrived at wall time `arrived`, and its clock."""
        if self.wall_minus_pts is not None and video_frame.pts is not None and video_frame.time_base is not None:
            at = float(video_frame.pts * video_frame.time_base) + self.wall_minus_pts
            if -MAX_AHEAD_SECONDS <= arrived - at <= MAX_BEHIND_SECONDS:
                return min(at, arrived), "rtcp"
        return arrived, "arrival"
