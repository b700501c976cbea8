"""When a camera's sender report is used, and when it is ignored."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import pytest
from av import VideoFrame

from streamcap.media.sources.libav.capture_time import MAX_AHEAD_SECONDS, MAX_BEHIND_SECONDS, CaptureTime

ARRIVED = 1_763_682_361.0
TIME_BASE = Fraction(1, 90_000)
PTS = 450_000


class ReportedPacket:
    """A packet with what libav adds to it after a sender report: AVProducerReferenceTime."""

    pts = PTS
    time_base = TIME_BASE

    def __init__(self, captured_at: float) -> None:
        self._captured_at = captured_at

    def has_sidedata(self, kind: str) -> bool:
        return kind == "prft"

    def get_sidedata(self, _kind: str) -> bytes:
        return struct.pack("=qi", round(1e6 * self._captured_at), 0)


def capture(behind: float, frame_pts: int = PTS) -> tuple[float, str]:
    """Capture time relative to arrival, and its source, of a frame that was captured `behind` seconds before."""
    times = CaptureTime()
    packet: Any = ReportedPacket(ARRIVED - behind)
    times.note(packet)
    video_frame = VideoFrame(16, 16, "yuv420p")
    video_frame.pts, video_frame.time_base = frame_pts, TIME_BASE
    captured_at, clock = times.of(video_frame, ARRIVED)
    return round(captured_at - ARRIVED, 3), clock


def test_sender_report_gives_capture_time() -> None:
    assert capture(0.4) == (-0.4, "rtcp")
    assert capture(0.4, PTS + 9000) == (-0.3, "rtcp")


@pytest.mark.parametrize(
    ("ahead", "clock"), [(0.2, "rtcp"), (MAX_AHEAD_SECONDS + 0.01, "arrival"), (3600.0, "arrival")]
)
def test_report_later_than_arrival(ahead: float, clock: str) -> None:
    """Jitter is tolerated, and no frame was captured after it arrived."""
    assert capture(-ahead) == (0.0, clock)


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (9.9, (-9.9, "rtcp")),
        (MAX_BEHIND_SECONDS + 0.01, (0.0, "arrival")),
        (1e9, (0.0, "arrival")),  # a camera whose clock was never set
    ],
)
def test_report_much_earlier_than_arrival(behind: float, expected: tuple[float, str]) -> None:
    assert capture(behind) == expected
