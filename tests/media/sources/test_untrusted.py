"""Untrusted input chooses neither its format nor other files to open: format tricks against a canary."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import pytest

from streamcap.errors import InputError, StreamcapError
from streamcap.media.files.video_file import VideoFile
from streamcap.media.sources import SourceOptions, open_source
from streamcap.media.sources.libav.options import FORMATS as LIBAV_FORMATS
from streamcap.media.sources.libav.options import LIBAV_OPTIONS
from testbed.canary import Canary
from testbed.ports import free_port
from testbed.programs import require_program
from testbed.rtsp.proxy import always, intercepting
from tests.media.fakes import write_video
from tests.media.sources.test_http import serving
from tests.media.sources.tricks import FORMATS, file_targets, mov_reference, network_targets

pytestmark = pytest.mark.slow

QUICK = SourceOptions(open_timeout=2.0, read_timeout=0.5, realtime=False)
LINK_LOCAL = "169.254.169.254"
EXTENSIONS = ("m3u8", "ts", "mp4", "ffconcat", "sdp", "mpd", "txt")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    (tmp_path / "canary").mkdir()
    with Canary(write_video(tmp_path / "film.ts", seconds=0.5), tmp_path / "canary") as canary:
        yield canary


def read(url: str, options: SourceOptions = QUICK) -> int:
    """The number of frames read; errors end the count."""
    source = open_source(url, options=options)
    count = 0
    with suppress(StreamcapError):
        source.open()
        for _ in source.frames():
            count += 1
    source.close()
    return count


def targets(canary: Canary) -> list[str]:
    return [*file_targets(canary.file), *network_targets(canary.address), *network_targets(LINK_LOCAL)]


def test_canary_notices_file_and_request(canary: Canary) -> None:
    canary.file.read_bytes()
    assert canary.touched() == ["the file was opened"]
    socket.create_connection(canary.address.split(":")).close()  # type: ignore[arg-type]
    while not (seen := canary.touched()):
        time.sleep(0.005)
    assert seen == ["the server got a request: b''"]


@pytest.mark.parametrize("trick", FORMATS)
def test_file_opens_no_other(canary: Canary, tmp_path: Path, trick: str) -> None:
    for target in targets(canary):
        for extension in EXTENSIONS:
            path = tmp_path / f"trick.{extension}"
            path.write_bytes(FORMATS[trick](target))
            assert not read(str(path))
            with pytest.raises(InputError):
                VideoFile(path)
    assert not canary.touched()


def test_file_mov_reference_is_not_followed(canary: Canary, tmp_path: Path) -> None:
    movie = write_video(tmp_path / "film.mp4", seconds=0.5).read_bytes()
    path = tmp_path / "reference.mov"
    path.write_bytes(mov_reference(str(canary.file), movie))
    # The reference is valid: libav follows it without our limits.
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}), suppress(av.FFmpegError):
        pass
    assert canary.touched()
    read(str(path))
    with suppress(InputError):
        VideoFile(path).close()
    assert not canary.touched()


def test_file_name_is_no_pattern(canary: Canary, tmp_path: Path) -> None:
    image = tmp_path / "canary" / "image1.jpg"
    shutil.copy(canary.file, image)
    pattern = tmp_path / "canary" / "image%d.jpg"
    pattern.write_bytes(b"x" * 100)
    for path in (pattern, tmp_path / "canary" / "image*.jpg"):
        with pytest.raises(InputError):
            VideoFile(path)
        assert not read(str(path))


@contextmanager
def http_server(body: bytes, content_type: str) -> Iterator[str]:
    def respond(request: BaseHTTPRequestHandler) -> None:
        if not request.path.startswith("/live"):
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Type", content_type)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with serving(respond) as base:
        yield base


@pytest.mark.parametrize("trick", FORMATS)
def test_http_opens_no_file_and_no_other_protocol(canary: Canary, trick: str) -> None:
    # A playlist over HTTP may name segments on other servers: that is what HLS is.
    network = [one for one in network_targets(canary.address) if not (trick.startswith("hls") and "http:" in one)]
    for target in (*file_targets(canary.file), *network):
        with http_server(FORMATS[trick](target), "application/octet-stream") as base:
            assert not read(f"{base}/live")
    assert not canary.touched()


@pytest.mark.parametrize("where", ["file:{file}", "{file}", "tcp://{address}", "ftp://{address}/x", "data:,x"])
def test_http_redirect_leads_to_http_alone(canary: Canary, where: str) -> None:
    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", where.format(file=canary.file, address=canary.address))
        request.send_header("Content-Length", "0")
        request.end_headers()

    with serving(respond) as base:
        assert not read(f"{base}/live")
    assert not canary.touched()


def send_over_srt(payload: bytes, address: str, received: threading.Event) -> None:
    """Connect to the listener at `address`, retrying, and send; then wait for `received`."""
    run = [require_program("ffmpeg"), "-loglevel", "quiet", "-f", "data", "-i", "pipe:0", "-map", "0", "-c", "copy"]
    connected = False
    while not connected:
        send = [*run, "-f", "data", f"{address}?connect_timeout=500"]
        with subprocess.Popen(send, stdin=subprocess.PIPE) as sender:
            assert sender.stdin is not None
            sender.stdin.write(payload)
            sender.stdin.flush()
            with suppress(subprocess.TimeoutExpired):
                sender.wait(1.0)
            connected = sender.poll() is None
            received.wait(1.0 if connected else 0.0)
            with suppress(BrokenPipeError):
                sender.stdin.close()


@pytest.mark.parametrize(
    ("trick", "target"),
    [("hls", "loopback"), ("hls master", "loopback"), ("hls", "file"), ("ffconcat", "file"), ("sdp", "loopback")],
)
def test_srt_listener_takes_mpegts_alone(canary: Canary, trick: str, target: str) -> None:
    name = str(canary.file) if target == "file" else f"http://{canary.address}/x.ts"
    payload = FORMATS[trick](name).ljust(1316 * 4, b"\n")
    address = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    source = open_source(f"{address}?mode=listener", options=SourceOptions(open_timeout=20.0, read_timeout=0.5))
    received = threading.Event()
    sender = threading.Thread(target=send_over_srt, args=(payload, address, received))
    sender.start()
    with pytest.raises(StreamcapError):
        source.open()
    source.close()
    received.set()
    sender.join()
    assert not canary.touched()


@pytest.mark.parametrize("scheme", LIBAV_OPTIONS)
def test_every_scheme_names_formats_and_protocols(scheme: str) -> None:
    assert "protocol_whitelist" in LIBAV_OPTIONS[scheme]
    assert scheme in LIBAV_FORMATS or "format_whitelist" in LIBAV_OPTIONS[scheme]
    assert not {"concat", "dash", "sdp", "image2", "tty"} & set(
        LIBAV_OPTIONS[scheme].get("format_whitelist", "").split(",")
    )


@pytest.mark.parametrize("where", ["http://{address}/x", "file:{file}", "ftp://{address}/x", "rtmp://{address}/x"])
def test_rtsp_redirect_leads_to_rtsp_alone(canary: Canary, where: str) -> None:
    location = where.format(file=canary.file, address=canary.address)
    answer = f"RTSP/1.0 302 Moved\r\n{{cseq}}\r\nLocation: {location}\r\n\r\n".encode()
    with intercepting(always(answer)) as port:
        read(f"rtsp://127.0.0.1:{port}/x")
    assert not canary.touched()


@pytest.mark.parametrize("target", ["file", "loopback"])
def test_rtsp_description_opens_nothing_else(canary: Canary, target: str) -> None:
    name = f"file:{canary.file}" if target == "file" else f"http://{canary.address}/x.ts"
    body = FORMATS["sdp"](name)
    head = f"RTSP/1.0 200 OK\r\n{{cseq}}\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
    with intercepting(always(head.encode() + f"Content-Base: {name}\r\n\r\n".encode() + body)) as port:
        read(f"rtsp://127.0.0.1:{port}/x")
    assert not canary.touched()
