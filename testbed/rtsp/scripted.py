"""An RTSP camera that sends a given description and given RTP packets, over TCP."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue

import av
import numpy as np

from testbed.rtsp.rtp_packets import nal_units

PAUSE = 0.04
Units = Sequence[bytes]
"""NAL units of one frame."""


def description(media: str) -> str:
    """A session description with one medium, such as "video 0 RTP/AVP 96" and its attributes."""
    return f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n{media}"


AUDIO = "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=control:t9\r\n"
H264 = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:t0\r\n"
UNKNOWN = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 X-MYSTERY/90000\r\na=control:t0\r\n"
METADATA = "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:t0\r\n"


def h264_frames(count: int = 25) -> list[Units]:
    """The NAL units of `count` small frames, the first of which is the only keyframe."""
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 160, 96, "yuv420p", 25
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "1000", "slice-max-size": "1300"}
    frames = []
    for number in range(count):
        pixels = np.full((96, 160, 3), 60 + number, np.uint8)
        video_frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        data = b"".join(bytes(packet) for packet in encoder.encode(video_frame))
        frames.append(list(nal_units(data)))
    return frames


@contextmanager
def camera(
    sdp: str,
    frames: Callable[[], Iterator[Units]] = lambda: iter(()),
    *,
    session: str = "1",
    requests: SimpleQueue[str] | None = None,
    end: bytes | None = None,
) -> Iterator[int]:
    """Its port on the loopback. Each viewer gets `frames()`, one every PAUSE seconds, on the channel set up for `t0`.

    session: the header of that name. requests: gets what the viewers send. end: sent after
    the frames, before the camera closes the connection; None: it falls silent instead.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(
                    target=_answer, args=(connection, sdp, frames, ended, session, requests, end), daemon=True
                ).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ended.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _answer(
    connection: socket.socket,
    sdp: str,
    frames: Callable[[], Iterator[Units]],
    ended: threading.Event,
    session: str,
    requests: SimpleQueue[str] | None,
    end: bytes | None,
) -> None:
    channel = 0
    with connection, suppress(OSError):
        while request := connection.recv(4096).decode(errors="replace"):
            if requests is not None:
                requests.put(request)
            sequence = re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)
            head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence[1] if sequence else 0}\r\nSession: {session}\r\n"
            method = request.partition(" ")[0]
            if method == "OPTIONS":
                head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            if method == "SETUP":
                channels = re.search(r"interleaved=(\d+)", request)
                first = int(channels[1]) if channels else 0
                channel = first if "/t0" in request.partition("\r\n")[0] else channel
                head += f"Transport: RTP/AVP/TCP;unicast;interleaved={first}-{first + 1}\r\n"
            body = sdp if method == "DESCRIBE" else ""
            if body:
                head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}\r\n{body}".encode())
            if method == "PLAY":
                threading.Thread(target=_play, args=(connection, frames, ended, channel, end), daemon=True).start()


def _play(
    connection: socket.socket,
    frames: Callable[[], Iterator[Units]],
    ended: threading.Event,
    channel: int,
    end: bytes | None,
) -> None:
    sequence = 0
    with suppress(OSError):
        for number, units in enumerate(frames()):
            for unit in units:
                marker = 0x80 if unit is units[-1] else 0
                head = struct.pack("!BBHII", 0x80, marker | 96, sequence & 0xFFFF, round(number * PAUSE * 90_000), 7)
                connection.sendall(struct.pack("!cBH", b"$", channel, len(head) + len(unit)) + head + unit)
                sequence += 1
            if ended.wait(PAUSE):
                return
        if end is not None:
            connection.sendall(end)
            connection.shutdown(socket.SHUT_RDWR)
