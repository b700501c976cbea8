"""Pictures of H.264 and H.265, and the RTP packets that libav makes of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

RATE = 25
OPTIONS = {
    "h264": ("libx264", {"g": "5", "x264-params": "slices=2:repeat-headers=1"}),
    "hevc": ("libx265", {"x265-params": "keyint=5:min-keyint=5:scenecut=0:repeat-headers=1:log-level=none"}),
}


@dataclass
class Pictures:
    """Of noise, so that they need many packets. One in five is a keyframe."""

    payload_type: int = 0
    encoded: list[bytes] = field(default_factory=list)
    keyframes: list[bool] = field(default_factory=list)
    packets: list[list[bytes]] = field(default_factory=list)
    """Of each picture: RTP, and RTCP sender reports."""


class _Sent:
    """What libav writes, a packet at a time."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.packets.append(bytes(data))
        return len(data)


def pictures(codec: str, count: int = 15, *, packet_size: int = 300) -> Pictures:
    """codec: "h264" or "hevc"."""
    encoder, options = OPTIONS[codec]
    sent, out = _Sent(), Pictures()
    noise = np.random.default_rng(1)
    with av.open(sent, "w", format="rtp", options={"packetsize": str(packet_size)}) as container:
        stream: Any = container.add_stream(
            encoder, rate=RATE, options={"preset": "ultrafast", "tune": "zerolatency", **options}
        )
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(count):
            pixels = noise.integers(0, 255, (96, 160, 3), dtype=np.uint8)
            video_frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            video_frame.pts = number
            for packet in stream.encode(video_frame):
                out.encoded.append(bytes(packet))
                out.keyframes.append(packet.is_keyframe)
                before = len(sent.packets)
                container.mux(packet)
                out.packets.append(sent.packets[before:])
        out.payload_type = next(one[1] & 0x7F for one in sent.packets if not is_control(one))
    return out


def is_control(packet: bytes) -> bool:
    return 200 <= packet[1] <= 204


def interleaved(packets: Iterable[bytes], channel: int = 0) -> bytes:
    """As RTSP sends them over TCP: RTP on `channel`, RTCP on the next one."""
    return b"".join(struct.pack("!cBH", b"$", channel + is_control(packet), len(packet)) + packet for packet in packets)


def nal_units(data: bytes) -> Iterator[bytes]:
    """Those of Annex B, without start codes, which may have three bytes or four."""
    return filter(None, data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1"))
