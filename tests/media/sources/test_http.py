"""Video over HTTP: MJPEG cameras, HLS, plain files, and pages without video."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
from PIL import Image

from streamcap.media.scenes import draw
from streamcap.media.sources import SourceEnded, SourceLost, SourceOptions, SourceRefused, open_source
from tests.media.fakes import SCENE, write_video

Answer = Callable[[BaseHTTPRequestHandler], None]
PATIENT_SECONDS = 30


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A loopback HTTP server that answers every GET with `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:
                self.close_connection = True  # the reader disconnected: most of these tests end so

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def folder(path: Path) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        wanted = path / request.path.lstrip("/")
        if not wanted.is_file():
            request.send_error(404)
            return
        data = wanted.read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw(SCENE, number / 10, 160, 96)).save(out, "JPEG")
    return out.getvalue()


class MotionJpeg:
    """An MJPEG camera. After `most` frames it closes the connection, or goes silent if `silent`."""

    def __init__(self, most: int, *, silent: bool = False) -> None:
        self.most = most
        self.silent = silent
        self.over = threading.Event()

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        for number in range(self.most):
            video_frame = jpeg(number)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(video_frame)}\r\n\r\n"
            request.wfile.write(head.encode() + video_frame + b"\r\n")
            self.over.wait(0.05)
        if self.silent:
            self.over.wait(PATIENT_SECONDS)


def test_mjpeg_is_timed_by_arrival_and_end_is_a_loss() -> None:
    with serving(MotionJpeg(20)) as base:
        source = open_source(f"{base}/video.mjpg")
        info = source.open()
        assert (info.codec, info.live) == ("mjpeg", True)
        frames = []
        with pytest.raises(SourceLost, match="closed the stream"):
            for frame in source.frames():
                frames.append(frame)  # noqa: PERF402 - keeps the frames before the end
        source.close()
    assert len(frames) >= 18
    assert frames[0].size == (160, 96)
    passed = frames[-1].arrived - frames[0].arrived
    assert frames[-1].time - frames[0].time == pytest.approx(passed, abs=0.01)


def test_silent_mjpeg_camera_times_out() -> None:
    camera = MotionJpeg(12, silent=True)
    with serving(camera) as base:
        source = open_source(f"{base}/video.mjpg", options=SourceOptions(open_timeout=5, read_timeout=0.5))
        source.open()
        with pytest.raises(SourceLost, match=r"no data for 0\.5 s"):
            for _ in source.frames():
                pass
        source.close()
        camera.over.set()


def test_http_file_is_read_to_its_end(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mkv", seconds=0.5)
    with serving(folder(tmp_path)) as base:
        source = open_source(f"{base}/film.mkv")
        assert not source.open().live
        with pytest.raises(SourceEnded, match="played to its end"):
            for _ in source.frames():
                pass
        source.close()
    assert source.statistics()["frames"] == 5


def with_ranges(path: Path, asked: list[str]) -> Answer:
    """As `folder`, with byte ranges."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        data = (path / request.path.lstrip("/")).read_bytes()
        asked.append(request.headers.get("Range", ""))
        start = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", asked[-1])) else 0
        request.send_response(206 if match else 200)
        request.send_header("Accept-Ranges", "bytes")
        if match:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        request.wfile.write(data[start:])

    return answer


# An MP4 has its index at the end, where only a server with byte ranges lets a reader begin.
@pytest.mark.parametrize(
    ("name", "ranges"), [("film.ts", False), ("film.ts", True), ("film.mkv", False), ("film.mp4", True)]
)
def test_film_is_played_in_real_time_once(tmp_path: Path, name: str, ranges: bool) -> None:
    write_video(tmp_path / name, seconds=1.5, rate=10)
    with serving(with_ranges(tmp_path, []) if ranges else folder(tmp_path)) as base:
        source = open_source(f"{base}/{name}")
        assert not source.open().live
        arrived: list[float] = []
        with pytest.raises(SourceEnded, match="played to its end"):
            arrived.extend(frame.arrived for frame in source.frames())
        source.close()
    assert source.statistics()["frames"] == len(arrived) == 15
    assert arrived[-1] - arrived[0] > 1.3


def endless(size: int | None) -> Answer:
    """A live stream of MPEG-TS that the server cuts off; some cameras claim a size for it."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        film = io.BytesIO()
        film.name = "film.ts"
        with av.open(film, "w", format="mpegts") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            for _ in range(30):
                out.mux(stream.encode(av.VideoFrame(160, 96, "yuv420p")))
            out.mux(stream.encode(None))
        request.send_response(200)
        if size is not None:
            request.send_header("Content-Length", str(size))
        request.end_headers()
        request.wfile.write(film.getvalue())
        request.close_connection = True

    return answer


@pytest.mark.parametrize("size", [None, 2**31 - 1, 10**15])
def test_live_stream_that_breaks_is_lost_not_ended(size: int | None) -> None:
    with serving(endless(size)) as base:
        source = open_source(f"{base}/live.ts")
        assert source.open().live
        with pytest.raises(SourceLost):
            for _ in source.frames():
                pass
        source.close()


def hls(path: Path, *, live: bool) -> Path:
    """Three segments of a second; a live playlist has no end mark."""
    film = write_video(path / "film.ts", seconds=3.0, rate=10)
    playlist = path / "live.m3u8"
    options = {"hls_time": "1", "hls_list_size": "0"}
    with av.open(str(film)) as source, av.open(str(playlist), "w", format="hls", options=options) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    if live:
        playlist.write_text(playlist.read_text().replace("#EXT-X-ENDLIST\n", ""))
    return playlist


@pytest.mark.parametrize("live", [False, True])
def test_hls_segments_are_paced_in_real_time(tmp_path: Path, live: bool) -> None:
    hls(tmp_path, live=live)
    with serving(folder(tmp_path)) as base:
        source = open_source(f"{base}/live.m3u8")
        assert source.open().live is live
        frames = source.frames()
        got = [next(frames) for _ in range(12)]
        source.stop()
        source.close()
    assert {frame.size for frame in got} == {(160, 96)}
    for frame in got:
        # Never early, although a complete segment arrives at once.
        assert (frame.arrived - got[0].arrived) - (frame.time - got[0].time) > -0.02


def needs_login(request: BaseHTTPRequestHandler) -> None:
    wanted = "Basic " + base64.b64encode(b"viewer:hunter2").decode()
    if request.headers.get("Authorization") == wanted:
        MotionJpeg(40)(request)
        return
    request.send_response(401)
    request.send_header("WWW-Authenticate", 'Basic realm="camera"')
    request.send_header("Content-Length", "0")
    request.end_headers()


def test_http_camera_with_password() -> None:
    with serving(needs_login) as base:
        host = base.removeprefix("http://")
        with pytest.raises(SourceRefused, match="401: it does not accept") as refused:
            open_source(f"http://viewer:hunter3@{host}/").open()
        assert "hunter3" not in str(refused.value)
        source = open_source(f"http://viewer:hunter2@{host}/")
        assert source.open().codec == "mjpeg"
        assert "hunter2" not in source.url
        source.close()


def status(code: int, body: bytes = b"") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    ("answer", "message", "retry"),
    [
        (status(200, b"<html><body>no video here</body></html>" * 50), "no video", True),
        (status(404), "404: the server has no such stream", True),
        (status(403), "403: this user may not see it", False),
        (status(503), r"cannot serve the stream now \(5xx\)", True),
    ],
)
def test_non_video_response_is_refused(answer: Answer, message: str, retry: bool) -> None:
    with serving(answer) as base:
        with pytest.raises(SourceRefused, match=message) as refused:
            open_source(f"{base}/live?token=hunter2").open()
        assert "hunter2" not in str(refused.value)
        assert refused.value.retry is retry


def test_playlist_cannot_read_local_files(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.ts")
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{film}\n#EXT-X-ENDLIST\n"
    with serving(status(200, text.encode())) as base, pytest.raises(SourceRefused):
        open_source(f"{base}/live.m3u8", options=SourceOptions(open_timeout=2, read_timeout=1)).open()
