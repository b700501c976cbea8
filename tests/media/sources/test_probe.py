"""`probe` on good and bad sources: what it is, or the right cause."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from streamcap.media.sources.address import HostGuard, HostScope
from streamcap.media.sources.diagnosis import rtsp_challenges
from streamcap.media.sources.probe import ProbeReport, probe
from testbed.http.odd_cameras import STREAMS
from testbed.programs import require_gstreamer, require_program
from testbed.rtsp import scripted
from testbed.rtsp.camera import Clip, RtspServer
from testbed.timeouts import TIMEOUT_FACTOR
from tests.media.fakes import write_video
from tests.media.sources.test_http import serving

CLIP = Clip(scenes=4, seconds=1.0, width=320, height=180, rate=15)
SECONDS = 30.0
"""For sources that answer: far more than they need."""


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    require_gstreamer()
    with RtspServer(CLIP) as running:
        yield running


@contextmanager
def saying(*texts: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server that sends `texts` one after the other, whatever it receives, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    connection.settimeout(5)
                    if context is not None:
                        context.wrap_socket(connection, server_side=True).close()
                        continue
                    for text in texts:
                        connection.sendall(text)
                    connection.recv(4096)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def refused(url: str, seconds: float = SECONDS) -> str:
    report = probe(url, seconds=seconds)
    assert not report.usable
    assert report.reason and "\n" not in report.reason
    assert report.seconds <= seconds + 1
    return report.reason


@pytest.mark.e2e
def test_rtsp_camera_is_described(server: RtspServer) -> None:
    report = probe(server.url("live"), seconds=SECONDS)
    assert report.usable, report.reason
    assert (report.codec, report.width, report.height, report.display_aspect) == ("h264", 640, 360, "16:9")
    assert report.frames_per_second == pytest.approx(15, abs=1)
    assert report.keyframe_interval == pytest.approx(1.0, abs=0.2)
    assert report.bits_per_second is not None
    assert 10_000 < report.bits_per_second < 20_000_000
    assert (report.clock, report.transport, report.audio) == ("rtcp", "RTP over TCP", "")
    assert "keyframes alone, where --every is 1 or more" in report.decode
    json.dumps(report.as_json())


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("audio", "there is audio, but no video in it"),
        ("nothing", "404: the server has no such stream; check the path"),
        ("broken", "cannot serve the stream now (5xx)"),
    ],
)
def test_camera_without_usable_video(server: RtspServer, path: str, cause: str) -> None:
    assert cause in refused(server.url(path))


@pytest.mark.e2e
def test_login_is_named_with_what_is_offered() -> None:
    require_gstreamer()
    with RtspServer(CLIP, user="viewer", password="hunter2", digest=True) as server:
        assert "401: it asks for a user name and a password (Digest MD5)" in refused(server.url())
        wrong = refused(server.url(login="viewer:hunter3"))
        assert "401: it does not accept this user name and password (Digest MD5)" in wrong
        assert "hunter3" not in wrong


@pytest.mark.e2e
def test_camera_over_udp_says_its_transport() -> None:
    require_gstreamer()
    with RtspServer(CLIP, udp=True) as server:
        # GStreamer may answer 503 while it still ends the session that it refused over TCP.
        reports = (probe(server.url(), seconds=SECONDS) for _ in range(5))
        report = next(report for report in reports if report.usable or "5xx" not in report.reason)
    assert report.usable, report.reason
    assert report.transport == "RTP over UDP"


def test_mjpeg_camera_and_file_are_described(tmp_path: Path) -> None:
    with serving(STREAMS["as it should be"]) as url:
        report = probe(url, seconds=4)
    assert report.usable, report.reason
    assert (report.codec, report.width, report.height, report.decode) == ("mjpeg", 160, 96, "every frame")
    film = probe(str(write_video(tmp_path / "film.mp4", audio=True)), seconds=SECONDS)
    assert film.usable, film.reason
    assert (film.codec, film.audio, film.frames_per_second) == ("h264", "aac", 10)


@pytest.mark.slow
@pytest.mark.slow
def test_camera_without_keyframes() -> None:
    frames = scripted.h264_frames()[1:]
    with scripted.camera(scripted.description(scripted.H264), lambda: itertools.cycle(frames)) as port:
        assert "video comes, but no keyframe in" in refused(f"rtsp://127.0.0.1:{port}/live", 6)


def test_scripted_camera_with_keyframes_is_usable() -> None:
    frames = scripted.h264_frames()
    with scripted.camera(scripted.description(scripted.H264), lambda: itertools.cycle(frames)) as port:
        report = probe(f"rtsp://127.0.0.1:{port}/live", seconds=6)
    assert report.usable, report.reason
    assert report.clock == "arrival"


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("medium", "cause"),
    [
        (scripted.UNKNOWN, "no decoder for its video"),
        (scripted.METADATA, "there is no video in it"),
    ],
)
def test_description_without_known_video(medium: str, cause: str) -> None:
    with scripted.camera(scripted.description(medium)) as port:
        assert cause in refused(f"rtsp://127.0.0.1:{port}/live", 6)


def test_closed_port_silent_server_and_unknown_name() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        assert "the connection was refused" in refused(f"rtsp://127.0.0.1:{taken.getsockname()[1]}/door")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/door"
        assert "it takes connections, but no video that could be opened came within" in refused(url, 8)
    assert "the name no-such-camera.invalid is not known" in refused("rtsp://no-such-camera.invalid/live")


@pytest.mark.slow
def test_firewall_that_drops_packets() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        address = full.getsockname()
        for _ in range(4):  # a full queue of connections drops further ones
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(address)
        assert "is the address right, or a firewall between?" in refused(f"rtsp://127.0.0.1:{address[1]}/door", 8)


def test_wrong_protocol_is_named(tmp_path: Path) -> None:
    with saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        assert f"HTTP answers at port {port}, not RTSP; try http://" in refused(f"rtsp://127.0.0.1:{port}/live")
    with saying(b"RTSP/1.0 400 Bad Request\r\n\r\n") as port:
        assert f"port {port} speaks RTSP without TLS; try rtsp://" in refused(f"rtsps://127.0.0.1:{port}/live")
    with saying(b"RTSP/1.0 400 Bad Request\r\nCSeq: 0\r\n\r\n") as port:
        assert f"RTSP answers at port {port}, not HTTP; try rtsp://" in refused(f"http://127.0.0.1:{port}/live")
    with saying(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert f"SSH answers at port {port}, not RTSP" in refused(f"rtsp://127.0.0.1:{port}/live")


def test_missing_tls_is_named(tmp_path: Path) -> None:
    openssl = require_program("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=camera"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with saying(context=context) as port:
        assert f"port {port} expects TLS; try rtsps://" in refused(f"rtsp://127.0.0.1:{port}/live")


def test_publisher_and_hung_source_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing to connect to" in refused("whip:")
    released = threading.Event()
    monkeypatch.setattr("streamcap.media.sources.probe._Prober.run", lambda _: released.wait(TIMEOUT_FACTOR))
    report = probe("rtsp://127.0.0.1:9/live", seconds=0.2)
    released.set()
    assert report == ProbeReport(report.url, usable=False, reason=report.reason, seconds=0.2)
    assert "nothing came of it within 0.2 s" in report.reason


def test_slow_challenge_is_given_up() -> None:
    """A server that sends a byte now and then holds the prober no longer than one that is silent."""
    pause, sent = threading.Event(), 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal sent
            connection, _ = listener.accept()
            with suppress(OSError), connection:
                for sent in range(300):  # noqa: B007 - read below
                    connection.sendall(b"R")
                    pause.wait(0.03)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
        assert rtsp_challenges(url, HostGuard(url, HostScope.ANY), timeout=0.3) == []
        thread.join()
    assert sent < 299


def test_error_of_our_own_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_source: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("streamcap.media.sources.rtsp.source.RtspSource.open", fail)
    assert probe("rtsp://127.0.0.1:9/live", seconds=TIMEOUT_FACTOR).reason == "an error of streamcap: a bug"
