"""HLS through our own client: encryption, byte ranges, redirects, cookies, and requests that fail."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from streamcap.media.sources import SourceEnded, SourceLost, SourceOptions, SourceRefused, open_source
from streamcap.media.sources.http.files import MAX_FRUITLESS_REQUESTS
from streamcap.media.sources.http.hls import with_absolute_urls
from tests.media.sources.test_http import Answer, folder, hls, serving

pytestmark = pytest.mark.slow

OPTIONS = SourceOptions(open_timeout=20, read_timeout=10, realtime=False)
KEY, IV = bytes(range(16)), bytes(15) + b"\x07"


def frames_of(url: str) -> int:
    """The number of frames up to the end, which must be a clean one."""
    source = open_source(url, options=OPTIONS)
    source.open()
    count = 0
    with pytest.raises(SourceEnded, match="played to its end"):
        for _ in source.frames():
            count += 1
    source.close()
    return count


def write_noise(path: Path, frames: int) -> None:
    """A film of noise, which takes many bytes."""
    noise = np.random.default_rng(1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(frames):
            pixels = noise.integers(0, 256, (240, 320, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())


def encrypt(playlist: Path) -> None:
    """Encrypt all segments of `playlist` with AES-128, as RFC 8216 has it."""
    for segment in re.findall(r"^[^#\n].*$", playlist.read_text(), re.M):
        padder = padding.PKCS7(128).padder()
        padded = padder.update((playlist.parent / segment).read_bytes()) + padder.finalize()
        cipher = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
        (playlist.parent / segment).write_bytes(cipher.update(padded))
    (playlist.parent / "a.key").write_bytes(KEY)
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="a.key",IV=0x{IV.hex()}\n#EXTINF'
    playlist.write_text(playlist.read_text().replace("#EXTINF", key, 1))


def with_ranges(path: Path, asked: list[str]) -> Answer:
    """Serves `path` with byte ranges; notes what was asked for."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        data = (path / request.path.lstrip("/")).read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        asked.append(request.headers.get("Range", ""))
        part = data[int(span[1]) : int(span[2]) + 1 if span[2] else None] if span else data
        request.send_response(206 if span else 200)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(part)))
        request.end_headers()
        request.wfile.write(part)

    return answer


def test_encrypted_segments_with_a_key_of_the_same_server(tmp_path: Path) -> None:
    encrypt(hls(tmp_path, live=False))
    with serving(folder(tmp_path)) as base:
        assert frames_of(f"{base}/live.m3u8") == 30


@pytest.mark.parametrize("ranges", [True, False])
def test_segments_that_are_ranges_of_one_file(tmp_path: Path, ranges: bool) -> None:
    playlist = hls(tmp_path, live=False)
    data, lines = b"", []
    for line in playlist.read_text().splitlines():
        if not line.startswith("#"):
            segment = (tmp_path / line).read_bytes()
            lines.append(f"#EXT-X-BYTERANGE:{len(segment)}@{len(data)}")
            data, line = data + segment, "all.ts"
        lines.append(line.replace("VERSION:3", "VERSION:4"))
    (tmp_path / "all.ts").write_bytes(data)
    playlist.write_text("\n".join(lines))
    with serving(with_ranges(tmp_path, []) if ranges else folder(tmp_path)) as base:
        assert frames_of(f"{base}/live.m3u8") == 30


def test_film_whose_index_is_at_its_end(tmp_path: Path) -> None:
    write_noise(tmp_path / "film.mp4", frames=12)
    assert (tmp_path / "film.mp4").stat().st_size > 200_000
    asked: list[str] = []
    with serving(with_ranges(tmp_path, asked)) as base:
        assert frames_of(f"{base}/film.mp4") == 12
    assert asked[0] == "" and len(asked) > 1


def test_film_whose_index_is_at_its_end_without_ranges(tmp_path: Path) -> None:
    write_noise(tmp_path / "film.mp4", frames=12)
    with serving(folder(tmp_path)) as base:
        assert frames_of(f"{base}/film.mp4") == 12


def test_playlist_with_byte_order_mark(tmp_path: Path) -> None:
    playlist = hls(tmp_path, live=False)
    playlist.write_text("\ufeff" + playlist.read_text())
    with serving(folder(tmp_path)) as base:
        assert frames_of(f"{base}/live.m3u8") == 30


def test_playlist_that_leads_to_itself_is_refused() -> None:
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        body = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlive.m3u8\n"
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with serving(answer) as base, pytest.raises(SourceRefused, match="its playlist leads to no video") as refused:
        open_source(f"{base}/live.m3u8", options=SourceOptions(open_timeout=1)).open()
    assert refused.value.retry
    assert len(asked) < MAX_FRUITLESS_REQUESTS + 10


def test_redirected_playlist_is_relative_to_where_it_is(tmp_path: Path) -> None:
    hls(tmp_path, live=True)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/live.m3u8":
            request.send_response(302)
            request.send_header("Location", "/far/away/live.m3u8")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        assert request.path.startswith("/far/away/")
        request.path = request.path.removeprefix("/far/away")
        folder(tmp_path)(request)

    with serving(answer) as base:
        source = open_source(f"{base}/live.m3u8", options=OPTIONS)
        assert source.open().live
        frames = source.frames()
        assert len([next(frames) for _ in range(25)]) == 25
        source.stop()
        source.close()


def test_cookie_of_the_playlist_goes_with_the_segments(tmp_path: Path) -> None:
    hls(tmp_path, live=False)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path != "/live.m3u8" and request.headers.get("Cookie") != "pass=1":
            request.send_error(403)
            return
        data = (tmp_path / request.path.lstrip("/")).read_bytes()
        request.send_response(200)
        request.send_header("Set-Cookie", "pass=1; Path=/")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    with serving(answer) as base:
        assert frames_of(f"{base}/live.m3u8") == 30


def test_login_goes_to_segments_of_the_own_host_only(tmp_path: Path) -> None:
    playlist = hls(tmp_path, live=False)
    seen: dict[str, str | None] = {}

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen[request.path] = request.headers.get("Authorization")
        if request.path.startswith("/live") and not seen[request.path]:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="x"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        folder(tmp_path)(request)

    with serving(folder(tmp_path)) as other, serving(answer) as base:
        playlist.write_text(re.sub(r"^(live1\.ts)$", rf"{base}/\1", playlist.read_text(), flags=re.M))
        playlist.write_text(re.sub(r"^(live2\.ts)$", rf"{other}/\1", playlist.read_text(), flags=re.M))
        assert frames_of(f"{base.replace('://', '://viewer:hunter2@')}/live.m3u8") == 30
    assert all((seen[f"/live{number}.ts"] or "").startswith("Basic ") for number in (0, 1))


@pytest.mark.parametrize("fault", ["403", "cut", "hang up"])
def test_segment_that_fails_costs_its_frames_only(tmp_path: Path, fault: str) -> None:
    hls(tmp_path, live=False)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/live1.ts":
            if fault == "403":
                request.send_error(403)
            elif fault == "cut":
                request.send_response(200)
                request.send_header("Content-Length", "100000")
                request.end_headers()
            request.close_connection = True
            return
        folder(tmp_path)(request)

    with serving(answer) as base:
        assert 18 <= frames_of(f"{base}/live.m3u8") <= 20


def test_reason_names_the_failed_request(tmp_path: Path) -> None:
    playlist = hls(tmp_path, live=True)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/live.m3u8":
            folder(tmp_path)(request)
        else:
            request.send_error(403)

    options = SourceOptions(open_timeout=1, read_timeout=1)
    with serving(answer) as base, pytest.raises(SourceRefused, match="403") as refused:
        open_source(f"{base}/live.m3u8", options=options).open()
    assert refused.value.retry
    with serving(folder(tmp_path)) as base:
        source = open_source(f"{base}/live.m3u8", options=SourceOptions(read_timeout=1, realtime=False))
        source.open()
        playlist.unlink()
        with pytest.raises(SourceLost, match="404: the server has no such stream"):
            for _ in source.frames():
                pass
        source.close()


def test_live_playlist_goes_on_after_new_segments(tmp_path: Path) -> None:
    playlist = hls(tmp_path, live=True)
    text = playlist.read_text()
    head, *segments = text.split("#EXTINF")
    playlist.write_text(head + "#EXTINF".join(["", *segments[:1]]))
    with serving(folder(tmp_path)) as base:
        source = open_source(f"{base}/live.m3u8", options=OPTIONS)
        source.open()
        count = 0
        for _ in source.frames():
            count += 1
            if count == 5:
                playlist.write_text(text)
            if count == 28:
                break
        source.stop()
        source.close()
    assert count == 28


def test_with_absolute_urls_changes_urls_alone() -> None:
    text = '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="k?a=1,b"\n#EXT-X-MAP:URI="/m.mp4",BYTERANGE="1@0"\n'
    text += "#EXTINF:1,a\nb/1.ts\n"
    assert with_absolute_urls(text, "https://cdn/x/live.m3u8?t=1").splitlines() == [
        "#EXTM3U",
        '#EXT-X-KEY:METHOD=AES-128,URI="https://cdn/x/k?a=1,b"',
        '#EXT-X-MAP:URI="https://cdn/m.mp4",BYTERANGE="1@0"',
        "#EXTINF:1,a",
        "https://cdn/x/b/1.ts",
    ]
    assert "http://[" in with_absolute_urls("http://[\n", "http://cdn/")
