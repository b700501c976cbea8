"""RTSP through the relay: redirects and addresses are checked, SHA-256 logins are answered."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcap.media.sources import SourceOptions, SourceRefused, open_source
from streamcap.media.sources.address import HostGuard, HostScope
from streamcap.media.sources.libav.options import pinned
from streamcap.media.sources.rtsp.messages import Message, MessageError, RtspSplitter
from streamcap.media.sources.rtsp.relay import RtspRelay
from testbed.canary import Canary
from testbed.programs import require_gstreamer
from testbed.rtsp.camera import Clip, RtspServer
from testbed.rtsp.proxy import Intercept, intercepting, redirect, sha256_only
from tests.media.fakes import write_video
from tests.media.sources.public_network import make_loopback_public

INTERNAL = "127.0.0.2"
NAMES = {"internal.example": INTERNAL, "metadata.example": "169.254.169.254"}
PUBLIC = SourceOptions(open_timeout=60, read_timeout=30, scope=HostScope.PUBLIC)
OWNER = SourceOptions(open_timeout=60, read_timeout=30)
TARGETS = {
    "loopback": "rtsp://127.0.0.2:{port}/x",
    "loopback with TLS": "rtsps://127.0.0.2:{port}/x",
    "mapped loopback": "rtsp://[::ffff:127.0.0.2]:{port}/x",
    "name of loopback": "rtsp://internal.example:{port}/x",
    "link-local": "rtsp://169.254.169.254/x",
    "name of link-local": "rtsp://metadata.example/x",
    "private": "rtsp://10.9.8.7/x",
    "file": "file:{file}",
    "HTTP": "http://127.0.0.2:{port}/x",
    "no port number": "rtsp://127.0.0.2:99999/x",
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    (tmp_path / "canary").mkdir()
    with Canary(write_video(tmp_path / "film.ts", seconds=0.5), tmp_path / "canary", INTERNAL) as canary:
        yield canary


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    make_loopback_public(monkeypatch, NAMES)


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    require_gstreamer()
    with RtspServer(Clip(scenes=4, seconds=1.0, width=320, height=180, rate=15)) as running:
        yield running


def port_of(server: RtspServer) -> int:
    return int(server.url().rpartition(":")[2].partition("/")[0])


def path_of(server: RtspServer) -> str:
    return server.url().rpartition(":")[2].partition("/")[2]


def read(url: str, options: SourceOptions, count: int = 5) -> int:
    source = open_source(url, options=options)
    try:
        source.open()
        frames = source.frames()
        return len([next(frames) for _ in range(count)])
    finally:
        source.close()


@pytest.mark.parametrize("options", [PUBLIC, OWNER], ids=["added", "owner"])
def test_redirect_leads_nowhere_forbidden(public: None, canary: Canary, options: SourceOptions) -> None:
    for target in TARGETS.values():
        url = target.format(port=canary.port, file=canary.file)
        with intercepting(redirect(url)) as port, pytest.raises(SourceRefused, match="it leads to") as refused:
            read(f"rtsp://127.0.0.1:{port}/x", options)
        assert not refused.value.retry
        assert not canary.touched(), url


def test_added_host_that_changes_after_the_check_is_refused(
    public: None, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, "changing.example", INTERNAL)
    with pytest.raises(SourceRefused, match="addresses of this machine"):
        read(f"rtsp://changing.example:{canary.port}/x", PUBLIC)
    assert not canary.touched()


@pytest.mark.parametrize("scheme", ["rtmp", "srt"])
def test_other_schemes_connect_to_the_checked_address(public: None, canary: Canary, scheme: str) -> None:
    guard = HostGuard(f"{scheme}://internal.example/", HostScope.PUBLIC)
    with pytest.raises(SourceRefused, match="addresses of this machine") as refused:
        read(f"{scheme}://internal.example:{canary.port}/a/b", PUBLIC)
    assert not refused.value.retry and not canary.touched()
    url, options = pinned(f"{scheme}://user:hunter2@localhost:{canary.port}/app/x?y=1", guard)
    assert url == f"{scheme}://user:hunter2@127.0.0.1:{canary.port}/app/x?y=1"
    assert options == ({"rtmp_tcurl": f"rtmp://localhost:{canary.port}/app"} if scheme == "rtmp" else {})


def test_redirects_end() -> None:
    guard = HostGuard("rtsp://127.0.0.1/x", HostScope.PRIVATE)
    starts: list[str] = []
    with intercepting(lambda request: redirect(starts[0])(request)) as port:
        starts.append(f"rtsp://127.0.0.1:{port}/x")
        with pytest.raises(SourceRefused, match="redirects more than 5 times"):
            read(starts[0], SourceOptions(scope=HostScope.PRIVATE))
    assert guard.resolve("127.0.0.1", 0) == ["127.0.0.1"]


@pytest.mark.e2e
def test_permitted_redirect_is_followed(public: None, server: RtspServer) -> None:
    with intercepting(redirect(f"rtsp://127.0.0.1:{port_of(server)}/{path_of(server)}")) as port:
        assert read(f"rtsp://127.0.0.1:{port}/elsewhere", PUBLIC) == 5


@pytest.mark.e2e
def test_frames_through_the_relay_have_sender_report_times(public: None, server: RtspServer) -> None:
    source = open_source(server.url(), options=PUBLIC)
    source.open()
    frames = source.frames()
    got = [next(frames) for _ in range(60)]
    source.close()
    assert got[-1].captured_at_source == "rtcp"
    assert source.statistics()["decode_errors"] == 0


@pytest.mark.e2e
@pytest.mark.parametrize("password", ["hunter2", "hunter3"])
def test_sha256_login(server: RtspServer, password: str) -> None:
    with intercepting(sha256_only, port_of(server)) as port:
        url = f"rtsp://viewer:{password}@127.0.0.1:{port}/{path_of(server)}"
        if password == "hunter2":
            assert read(url, OWNER) == 5
            return
        with pytest.raises(SourceRefused, match="does not accept this user name and password") as refused:
            read(url, OWNER)
    assert not refused.value.retry and password not in str(refused.value)


def test_password_does_not_follow_a_redirect(public: None) -> None:
    seen: list[bytes] = []

    def other(request: bytes) -> bytes:
        seen.append(request)
        return b'RTSP/1.0 401 Unauthorized\r\n{cseq}\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'

    def first(port: int) -> Intercept:
        return redirect(f"rtsp://127.0.0.1:{port}/x")

    with intercepting(other) as port, intercepting(first(port)) as start, pytest.raises(SourceRefused, match="401"):
        read(f"rtsp://viewer:hunter2@127.0.0.1:{start}/x", PUBLIC)
    assert seen and not any(b"Authorization" in request for request in seen)


@pytest.mark.e2e
def test_camera_without_tcp_is_read_over_udp(public: None) -> None:
    require_gstreamer()
    with RtspServer(Clip(scenes=4, seconds=1.0, width=320, height=180, rate=15), udp=True) as camera:
        # GStreamer answers 503 for a moment after the attempt over TCP.
        for _ in range(20):
            with contextlib.suppress(SourceRefused):
                assert read(camera.url(), PUBLIC) == 5
                return
        assert read(camera.url(), PUBLIC) == 5


def test_relay_names_the_checked_address_for_datagrams(public: None) -> None:
    answer = b"RTSP/1.0 200 OK\r\n{cseq}\r\nTransport: RTP/AVP;unicast;source=169.254.169.254;server_port=9-10\r\n\r\n"
    with intercepting(lambda request: answer) as port:
        relay = RtspRelay(f"rtsp://127.0.0.1:{port}/x", HostGuard("rtsp://x/", HostScope.PUBLIC), timeout=5)
        host, _, number = relay.url.removeprefix("rtsp://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(number)), 5) as client:
            client.sendall(f"SETUP {relay.url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            transport = Message.parse(client.recv(1000)).all("Transport")
        relay.close()
    assert transport == ["RTP/AVP;unicast;server_port=9-10;source=127.0.0.1"]


def test_relay_refuses_other_local_programs(public: None) -> None:
    requests: list[bytes] = []
    with intercepting(lambda request: requests.append(request) or b"RTSP/1.0 200 OK\r\n{cseq}\r\n\r\n") as port:  # type: ignore[func-returns-value]
        relay = RtspRelay(f"rtsp://127.0.0.1:{port}/x", HostGuard("rtsp://x/", HostScope.ANY), timeout=5)
        local = relay.url.rpartition("/")[0]
        host, _, number = local.removeprefix("rtsp://").partition(":")
        with socket.create_connection((host, int(number)), 5) as program:
            program.sendall(f"OPTIONS {local}/x RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            assert program.recv(100) == b""
        relay.close()
    assert not requests


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_splitter_separates_messages_and_frames(size: int) -> None:
    parts = [
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-length: 3\r\n\r\nabc",
        b"$\x00\x00\x05RTSP/$\x01\x00\x02\r\n",
        b"OPTIONS * RTSP/1.0\r\nCSeq: 2\r\n\r\n",
    ]
    data = b"".join(parts)
    splitter = RtspSplitter()
    found = [one for at in range(0, len(data), size) for one in splitter.feed(data[at : at + size])]
    assert b"".join(found) == data
    assert [one for one in found if not one.startswith(b"$")] == [parts[0], parts[2]]
    assert Message.parse(parts[0]).encode() == parts[0]


@pytest.mark.parametrize("data", [b"x" * 70_000, b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n"])
def test_splitter_is_bounded(data: bytes) -> None:
    with pytest.raises(MessageError):
        RtspSplitter().feed(data)
