"""Many cameras for little CPU time: an RTSP server that sends every client the same packets, made once.

    with ManyCameras(Clip(seed=1)) as cameras:
        cameras.url("door"), cameras.url("yard") ...

RTP over TCP only, any path, no login. As a camera does, it drops frames, up to the next keyframe, for a client that
does not read. Sender reports tell the time of day of each frame.
"""

from __future__ import annotations

import asyncio
import base64
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.rtsp.camera import Clip
from testbed.rtsp.rtp_packets import nal_units

CLOCK_HZ = 90_000
PACKET_BYTES = 1400
REPORT_SECONDS = 1.0
MAX_BUFFERED_BYTES = 1_000_000
"""For one client; a camera has little memory."""
_UNIX_TO_NTP = 2_208_988_800
_SSRC = 0x5CA9


def packets(access_unit: bytes, first: int, timestamp: int) -> tuple[bytes, int]:
    """The interleaved RTP packets of one frame (RFC 6184: single units and FU-A), and how many they are."""
    payloads: list[bytes] = []
    for unit in nal_units(access_unit):
        if len(unit) <= PACKET_BYTES:
            payloads.append(unit)
            continue
        header, body = unit[0], unit[1:]
        for start in range(0, len(body), PACKET_BYTES):
            flags = (0x80 if start == 0 else 0) | (0x40 if start + PACKET_BYTES >= len(body) else 0)
            payloads.append(bytes((header & 0xE0 | 28, flags | header & 0x1F)) + body[start : start + PACKET_BYTES])
    out = bytearray()
    for number, payload in enumerate(payloads):
        marker = 0x80 if number == len(payloads) - 1 else 0
        out += struct.pack(">cBH", b"$", 0, 12 + len(payload))
        out += struct.pack(">BBHII", 0x80, marker | 96, first + number & 0xFFFF, timestamp & 0xFFFFFFFF, _SSRC)
        out += payload
    return bytes(out), len(payloads)


def sender_report(wall: float, timestamp: int) -> bytes:
    """An interleaved RTCP packet: `timestamp` was at `wall`, seconds since 1970."""
    seconds = int(wall)
    ntp = seconds + _UNIX_TO_NTP, int((wall - seconds) * 2**32)
    body = struct.pack(">BBHIIIIII", 0x80, 200, 6, _SSRC, *ntp, timestamp & 0xFFFFFFFF, 0, 0)
    return struct.pack(">cBH", b"$", 1, len(body)) + body


class _Server:
    def __init__(self, video: bytes, sizes: list[int], keys: set[int], rate: int) -> None:
        offsets = [0]
        for size in sizes:
            offsets.append(offsets[-1] + size)
        self._units = [video[start:end] for start, end in pairwise(offsets)]
        self._keys = keys
        self._rate = rate
        # Clients that play; whether they wait for a keyframe.
        self._playing: dict[asyncio.StreamWriter, bool] = {}
        sets = [base64.b64encode(unit).decode() for unit in nal_units(self._units[0]) if unit[0] & 0x1F in (7, 8)]
        self._sdp = (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
            f"a=fmtp:96 packetization-mode=1; sprop-parameter-sets={','.join(sets)}\r\na=framerate:{rate}\r\n"
            "a=control:track\r\n"
        )

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        t0, wall0, number, sequence = time.monotonic(), time.time(), 0, 0
        reported = -REPORT_SECONDS
        for frame in self._frames():
            due = number / self._rate
            await asyncio.sleep(max(0.0, t0 + due - time.monotonic()))
            timestamp = round(due * CLOCK_HZ)
            blob, used = packets(self._units[frame], sequence, timestamp)
            if due - reported >= REPORT_SECONDS:
                blob, reported = sender_report(wall0 + due, timestamp) + blob, due
            number, sequence = number + 1, sequence + used
            self._send(blob, key=frame in self._keys)

    def _frames(self) -> Iterator[int]:
        for number in count():
            yield number % len(self._units)

    def _send(self, blob: bytes, *, key: bool) -> None:
        for writer, waits in list(self._playing.items()):
            if writer.is_closing():
                del self._playing[writer]
            elif waits and not key:
                continue
            elif writer.transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
                self._playing[writer] = True
            else:
                self._playing[writer] = False
                writer.write(blob)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lead = await reader.readexactly(1)
                if lead == b"$":  # a receiver report
                    length = struct.unpack(">xH", await reader.readexactly(3))[0]
                    await reader.readexactly(length)
                    continue
                head = (lead + await reader.readuntil(b"\r\n\r\n")).decode()
                self._answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._playing.pop(writer, None)
            writer.close()

    def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        method, url = head.split()[:2]
        number = re.search(r"CSeq: *(\d+)", head)
        more, body = "", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = self._sdp
            more = f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1;timeout=60\r\n"
        elif method == "PLAY":
            more = "Session: 1\r\n"
        writer.write(f"RTSP/1.0 200 OK\r\nCSeq: {number[1] if number else 0}\r\n{more}\r\n{body}".encode())
        if method == "PLAY":
            self._playing[writer] = True


class ManyCameras:
    """The server as a process; `with` starts and stops it."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._clip.encoded()
        command = [sys.executable, "-m", "testbed.rtsp.many_cameras", *map(str, self._clip.encoded())]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def url(self, path: str) -> str:
        return f"rtsp://127.0.0.1:{self._port}/{path}"


if __name__ == "__main__":
    import json

    import uvloop

    about = json.loads(Path(sys.argv[2]).read_text())
    uvloop.run(_Server(Path(sys.argv[1]).read_bytes(), about["sizes"], set(about["keys"]), about["rate"]).run())
