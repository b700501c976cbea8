"""An added source leads to no file, other protocol, or forbidden address, however a playlist or redirect names it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from streamcap.errors import StreamcapError
from streamcap.media.sources import SourceOptions, SourceRefused, address, open_source
from streamcap.media.sources.address import HostGuard, HostScope
from testbed.canary import Canary
from tests.media.fakes import write_video
from tests.media.sources import tricks
from tests.media.sources.public_network import make_loopback_public
from tests.media.sources.test_http import serving

INTERNAL = "127.0.0.2"
OPTIONS = SourceOptions(open_timeout=20, read_timeout=10, realtime=False, scope=HostScope.PUBLIC)
NAMES = {"internal.example": INTERNAL, "metadata.example": "169.254.169.254"}

TARGETS = {
    "loopback": "http://127.0.0.2:{port}/x.ts",
    "mapped loopback": "http://[::ffff:127.0.0.2]:{port}/x.ts",
    "loopback in other digits": "http://0x7f.2:{port}/x.ts",
    "name of loopback": "http://internal.example:{port}/x.ts",
    "link-local": "http://169.254.169.254/x.ts",
    "name of link-local": "http://metadata.example/x.ts",
    "private": "http://10.9.8.7/x.ts",
    "file": "file:{file}",
    "file URL": "file://{file}",
    "concat": "concat:{file}",
    "data": "data:video/mp2t;base64,AAAA",
    "rtmp": "rtmp://127.0.0.2:{port}/a/x.ts",
    "no port number": "http://127.0.0.2:99999/x.ts",
}


def _rendition(target: str) -> bytes:
    sound = f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",DEFAULT=YES,URI="{target}"\n'
    return f'#EXTM3U\n{sound}#EXT-X-STREAM-INF:BANDWIDTH=9,AUDIO="a"\n{target}\n'.encode()


PLAYLISTS: dict[str, Callable[[str], bytes]] = {
    "segment": tricks.hls,
    "key": tricks.hls_key,
    "map": tricks.hls_map,
    "nested playlist": tricks.hls_master,
    "rendition": _rendition,
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    (tmp_path / "canary").mkdir()
    video = write_video(tmp_path / "film.ts", seconds=0.5)
    with Canary(video, tmp_path / "canary", INTERNAL) as canary:
        yield canary


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    make_loopback_public(monkeypatch, NAMES)


@contextmanager
def publisher(answer: Callable[[str], bytes | str]) -> Iterator[str]:
    """A server that answers a path with the bytes, or redirects to the URL, that `answer` returns."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        found = answer(request.path)
        request.send_response(302 if isinstance(found, str) else 200)
        if isinstance(found, str):
            request.send_header("Location", found)
            found = b""
        request.send_header("Content-Length", str(len(found)))
        request.end_headers()
        request.wfile.write(found)

    with serving(respond) as base:
        yield base


def targets(canary: Canary) -> list[str]:
    return [url.format(port=canary.port, file=canary.file) for url in TARGETS.values()]


def refusal(url: str) -> SourceRefused:
    source = open_source(url, options=OPTIONS)
    try:
        source.open()
        for _ in source.frames():
            pass
    except SourceRefused as refused:
        return refused
    finally:
        source.close()
    raise AssertionError("it was not refused")


@pytest.mark.parametrize("trick", PLAYLISTS)
def test_playlist_leads_nowhere_forbidden(canary: Canary, trick: str) -> None:
    for url in targets(canary):
        with publisher(lambda path, url=url: PLAYLISTS[trick](url)) as base:
            refused = refusal(f"{base}/live.m3u8")
        assert not canary.touched(), url
        if url.startswith("http"):  # libav refuses some of the others before it asks us
            assert "it leads to" in str(refused) and not refused.retry, url


@pytest.mark.parametrize("trick", ["video", *PLAYLISTS])
def test_redirect_leads_nowhere_forbidden(canary: Canary, trick: str) -> None:
    for url in targets(canary):

        def answer(path: str, url: str = url) -> bytes | str:
            return PLAYLISTS[trick]("moved.ts") if trick in PLAYLISTS and path == "/live.m3u8" else url

        with publisher(answer) as base:
            refused = refusal(f"{base}/live.m3u8")
        assert "it leads to" in str(refused) and not refused.retry, url
        assert not canary.touched(), url


def test_name_that_changes_after_the_check_is_refused(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    film = canary.file.read_bytes()
    canary.touched()
    monkeypatch.setitem(NAMES, "changing.example", "127.0.0.1")

    def answer(path: str) -> bytes:
        # From now on the name leads elsewhere.
        monkeypatch.setitem(NAMES, "changing.example", INTERNAL)
        return tricks.hls("1.ts") if path == "/live.m3u8" else film

    with publisher(answer) as base:
        host = base.replace("127.0.0.1", "changing.example")
        assert "addresses of this machine" in str(refusal(f"{host}/live.m3u8"))
        assert "addresses of this machine" in str(refusal(f"{host}/live.m3u8"))
    assert not canary.touched()


def test_connection_goes_to_the_checked_address(monkeypatch: pytest.MonkeyPatch, canary: Canary) -> None:
    answers = iter(["127.0.0.1", INTERNAL, INTERNAL])
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        return look_up(next(answers) if host == "changing.example" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    film = canary.file.read_bytes()
    canary.touched()
    with publisher(lambda path: film) as base:
        source = open_source(f"{base.replace('127.0.0.1', 'changing.example')}/film.ts", options=OPTIONS)
        assert source.open().codec == "h264"
        source.close()
    assert not canary.touched()


def test_fault_is_not_diagnosed_at_a_forbidden_address(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "changing.example", "127.0.0.1")

    def hang_up(request: BaseHTTPRequestHandler) -> None:
        monkeypatch.setitem(NAMES, "changing.example", INTERNAL)
        request.close_connection = True

    with serving(hang_up) as base, pytest.raises(StreamcapError):
        open_source(f"{base.replace('127.0.0.1', 'changing.example')}/live", options=OPTIONS).open()
    assert not canary.touched()


@pytest.mark.parametrize(
    ("scope", "own", "other", "allowed"),
    [
        (HostScope.ANY, "169.254.1.1", "169.254.1.1", True),
        (HostScope.ANY, "169.254.1.1", "169.254.1.2", False),
        (HostScope.ANY, "10.0.0.1", "10.0.0.2", True),
        (HostScope.ANY, "10.0.0.1", "169.254.1.2", False),
        (HostScope.ANY, "8.8.8.8", "10.0.0.2", False),
        (HostScope.ANY, "8.8.8.8", "8.8.4.4", True),
        (HostScope.PRIVATE, "8.8.8.8", "10.0.0.2", True),
        (HostScope.PRIVATE, "8.8.8.8", "169.254.1.2", False),
        (HostScope.PUBLIC, "8.8.8.8", "8.8.4.4", True),
        (HostScope.PUBLIC, "8.8.8.8", "127.0.0.2", False),
    ],
)
def test_guard_by_scope(scope: HostScope, own: str, other: str, allowed: bool) -> None:
    guard = HostGuard(f"http://{own}/x", scope)
    guard.resolve(own, 80)
    if allowed:
        assert guard.resolve(other, 80) == [other]
    else:
        with pytest.raises(address.ForbiddenHostError):
            guard.resolve(other, 80)


@pytest.mark.parametrize("own", ["127.0.0.2", "169.254.169.254"])
def test_guard_checks_the_own_host_of_added_sources(own: str) -> None:
    with pytest.raises(address.ForbiddenHostError):
        HostGuard(f"http://{own}/x", HostScope.PUBLIC).resolve(own, 80)


def test_table_in_the_docs_names_every_trick() -> None:
    text = (Path(__file__).parents[4] / "docs/security.md").read_text()
    table = text.partition("| an added source leads to |")[2].partition("\n\n")[0]
    assert {trick for trick in PLAYLISTS if f"\n| HLS {trick} |" in table} == set(PLAYLISTS)
    assert "\n| HTTP redirect of a video or of any of these |" in table
