"""HTTP cameras with different kinds of JPEG streams, and polled URLs."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import av
import pytest

from streamcap.media.demand import FrameDemand
from streamcap.media.frame import Frame
from streamcap.media.sources import SourceLost, SourceOptions, SourceRefused, address, open_source
from streamcap.media.sources.address import addresses_fault
from streamcap.media.sources.http.hls import choose_rendition, with_absolute_urls
from streamcap.media.sources.http.jpeg import JpegSplitter
from testbed.http.odd_cameras import COUNT, SIZE, SNAPSHOTS, STREAMS, Login, Snapshot, jpeg
from testbed.timeouts import TIMEOUT_FACTOR
from tests.media.fakes import write_video
from tests.media.sources.test_http import folder, hls, serving

OPTIONS = SourceOptions(open_timeout=20, read_timeout=10, poll_interval=0.05)


def first_frames(url: str, count: int) -> list[Frame]:
    source = open_source(url, options=OPTIONS)
    info = source.open()
    assert (info.codec, info.live, (info.width, info.height)) == ("mjpeg", True, SIZE)
    frames = source.frames()
    got = [next(frames) for _ in range(count)]
    source.stop()
    source.close()
    return got


def blues(frames: list[Frame]) -> list[int]:
    return [int(frame.video_frame.to_ndarray(format="rgb24")[0, 0, 2]) for frame in frames]


@pytest.mark.parametrize("kind", STREAMS)
def test_every_jpeg_of_a_stream_is_a_frame(kind: str) -> None:
    with serving(STREAMS[kind]) as base:
        source = open_source(f"{base}/video", options=OPTIONS)
        source.open()
        frames = []
        with pytest.raises(SourceLost, match="closed the stream"):
            for frame in source.frames():
                frames.append(frame)  # noqa: PERF402 - keeps the frames before the end
        source.close()
    assert {frame.size for frame in frames} == {SIZE}
    assert blues(frames) == pytest.approx([255 - 20 * number % 256 for number in range(COUNT)], abs=3)
    assert source.statistics()["decode_errors"] == 0


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_snapshot_address_is_polled(kind: str) -> None:
    camera = SNAPSHOTS[kind]()
    with serving(camera) as base:
        frames = first_frames(f"{base}/snapshot.jpg", 4)
    assert blues(frames) == pytest.approx([255, 235, 215, 195], abs=3)
    gaps = [after.arrived - before.arrived for before, after in pairwise(frames)]
    assert min(gaps) >= OPTIONS.poll_interval
    assert camera.requests == 4


@pytest.mark.parametrize(("kind", "length"), [("PNG", True), ("WEBP", True), ("PNG", False)])
def test_other_picture_is_polled(kind: str, length: bool) -> None:
    camera = Snapshot(content_type=f"image/{kind.lower()}", kind=kind, length=length)
    with serving(camera) as base:
        source = open_source(f"{base}/snapshot", options=OPTIONS)
        info = source.open()
        assert (info.codec, info.live, (info.width, info.height)) == ("image", True, SIZE)
        frames = source.frames()
        got = [next(frames) for _ in range(3)]
        source.stop()
        source.close()
    assert blues(got) == pytest.approx([255, 235, 215], abs=8)
    assert camera.requests == 3


def test_damaged_picture_is_named() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "image/png")
        request.end_headers()
        request.wfile.write(b"\x89PNG\r\n\x1a\n")

    with serving(answer) as base, pytest.raises(SourceRefused, match=r"its image \(image/png\) cannot be decoded"):
        open_source(f"{base}/snapshot", options=OPTIONS).open()


@pytest.mark.parametrize("kind", ["image/png", "application/vnd.apple.mpegurl"])
def test_slow_answer_is_given_up(kind: str) -> None:
    pause = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        request.wfile.write(b"#EXTM3U")
        for _ in range(300):
            request.wfile.write(b"\n")
            pause.wait(0.03)

    options = SourceOptions(open_timeout=0.3, read_timeout=TIMEOUT_FACTOR)
    with serving(answer) as base, pytest.raises(SourceRefused, match=r"is not complete within 0\.3 s"):
        open_source(f"{base}/live", options=options).open()


def test_polling_follows_the_wanted_interval() -> None:
    with serving(Snapshot()) as base:
        source = open_source(f"{base}/snapshot.jpg", options=SourceOptions(poll_interval=20))
        source.demand = FrameDemand(every=0.05)
        source.open()
        frames = source.frames()
        first, second, third = (next(frames) for _ in range(3))
        source.close()
    assert third.arrived - second.arrived < 20 and second.arrived - first.arrived < 20


@pytest.mark.parametrize(("index_first", "readable"), [(True, True), (False, False)])
def test_mp4_without_a_length(tmp_path: Path, index_first: bool, readable: bool) -> None:
    film = write_video(tmp_path / "film.mp4").read_bytes()
    at = film.index(b"mdat") - 4
    end = at + int.from_bytes(film[at : at + 4])
    assert film[end + 4 : end + 8] == b"moov"
    # More than libav keeps, so that it cannot go back.
    filler = bytes(300_000)
    film = film[:at] + (end - at + len(filler)).to_bytes(4) + film[at + 4 : end] + filler + film[end:]
    if index_first:
        # As fragments, each with its index.
        with (
            av.open(str(tmp_path / "film.mp4")) as given,
            av.open(str(tmp_path / "parts.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}) as out,
        ):
            stream = out.add_stream_from_template(given.streams.video[0])
            for packet in given.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        film = (tmp_path / "parts.mp4").read_bytes()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "video/mp4")
        request.end_headers()
        request.wfile.write(film)

    with serving(answer) as base:
        source = open_source(f"{base}/film.mp4", options=OPTIONS)
        if readable:
            assert source.open().codec == "h264"
        else:
            with pytest.raises(SourceRefused, match=r"index \(moov box\) at its end, and the server"):
                source.open()
        source.close()


def test_playlist_title_with_a_line_separator() -> None:
    text = "#EXTM3U\r\n#EXTINF:4,one\u2028two\x0bthree\r\n1.ts\r\n#EXT-X-ENDLIST\r\n"
    lines = with_absolute_urls(text, "http://cam/live/index.m3u8").split("\n")
    assert lines == ["#EXTM3U", "#EXTINF:4,one\u2028two\x0bthree", "http://cam/live/1.ts", "#EXT-X-ENDLIST", ""]


@pytest.mark.parametrize("kind", ["Basic", "MD5", "SHA-256"])
def test_snapshot_behind_a_login(kind: str) -> None:
    with serving(Login(Snapshot(), kind)) as base:
        host = base.removeprefix("http://")
        assert len(first_frames(f"http://viewer:hunter2@{host}/snap.jpg?channel=1", 3)) == 3
        for login, message in (("viewer:hunter3@", "does not accept this user"), ("", "asks for a user name")):
            with pytest.raises(SourceRefused, match=message) as refused:
                open_source(f"http://{login}{host}/snap.jpg", options=OPTIONS).open()
            assert not refused.value.retry


def test_polled_camera_that_goes_is_lost() -> None:
    answers: list[BaseHTTPRequestHandler] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        answers.append(request)
        if len(answers) > 3:
            request.send_error(503)
            return
        Snapshot()(request)

    with serving(answer) as base:
        source = open_source(f"{base}/snapshot.jpg", options=OPTIONS)
        source.open()
        with pytest.raises(SourceLost, match="cannot serve the stream now"):
            assert not [frame for frame in source.frames() if frame.size != SIZE]
        source.close()


def test_redirect_to_link_local_is_not_followed() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "http://169.254.169.254/latest/meta-data/")
        request.end_headers()

    with serving(answer) as base, pytest.raises(SourceRefused, match="link-local") as refused:
        open_source(f"{base}/video", options=OPTIONS).open()
    assert not refused.value.retry


def test_public_host_may_not_redirect_to_private(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(addresses: list[str], *, allow_private: bool) -> str | None:
        # The server under test stands for a public host.
        return None if addresses == ["127.0.0.1"] else addresses_fault(addresses, allow_private=allow_private)

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "http://127.0.0.2:9/secret")
        request.end_headers()

    monkeypatch.setattr(address, "addresses_fault", fault)
    with (
        serving(answer) as base,
        pytest.raises(SourceRefused, match="private networks"),
    ):
        open_source(f"{base}/video", options=OPTIONS).open()


def test_jpeg_above_max_pixels_is_refused_by_its_size() -> None:
    with serving(Snapshot()) as base:
        source = open_source(f"{base}/x", options=SourceOptions(max_pixels=SIZE[0] * SIZE[1] - 1))
        with pytest.raises(SourceRefused, match="160×96, above the limit"):
            source.open()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_splitter_finds_jpegs_in_any_pieces(size: int) -> None:
    wanted = [jpeg(number, thumbnail=number % 2 == 1) for number in range(4)]
    data = b"--b\r\n\xff\xd8x" + b"\r\n\xff--b\r\n".join(wanted) + b"\xff\xd8\xff\xe0\0"
    splitter = JpegSplitter()
    found = [one for at in range(0, len(data), size) for one in splitter.feed(data[at : at + size])]
    assert found == wanted


def test_splitter_drops_what_is_too_long() -> None:
    splitter = JpegSplitter(max_bytes=100)
    assert splitter.feed(b"\xff\xd8\xff\xe0" + b"\xff" * 500) == []
    assert splitter.dropped
    assert splitter.feed(b"\0" * 200) == []


MASTER = """#EXTM3U
#EXT-X-STREAM-INF:BANDWIDTH=100000,CODECS="mp4a.40.2"
sound.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=4000000,RESOLUTION=1920x1080,CODECS="avc1.640028,mp4a.40.2"
high.m3u8?x=1
#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=640x360,CODECS="avc1.42c01e,mp4a.40.2"

middle/live.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=320x180
low.m3u8
"""


def test_choose_rendition_takes_the_smallest_that_is_enough() -> None:
    assert choose_rendition(MASTER, "https://cdn/a/master.m3u8?t=1") == "https://cdn/a/middle/live.m3u8"
    without = MASTER.replace("640x360", "480x270").replace("1920x1080", "426x240")
    assert choose_rendition(without, "https://cdn/a/master.m3u8") == "https://cdn/a/middle/live.m3u8"
    assert choose_rendition("#EXTM3U\n#EXTINF:1,\na.ts\n", "https://cdn/a.m3u8") is None


@pytest.mark.parametrize("live", [False, True])
def test_hls_master_fetches_one_rendition(tmp_path: Path, live: bool) -> None:
    hls(tmp_path, live=live)
    master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9,RESOLUTION=640x360\nlive.m3u8\n"
    master += "#EXT-X-STREAM-INF:BANDWIDTH=99,RESOLUTION=1920x1080\nother.m3u8\n"
    (tmp_path / "master.m3u8").write_text(master)
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        folder(tmp_path)(request)

    with serving(answer) as base:
        source = open_source(f"{base}/master.m3u8", options=OPTIONS)
        assert source.open().live is live
        assert next(source.frames()).size == (160, 96)
        source.stop()
        source.close()
    assert "/live.m3u8" in asked
    assert "/other.m3u8" not in asked


def test_film_over_http_is_still_read_by_libav(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", seconds=0.3)
    with serving(folder(tmp_path)) as base:
        source = open_source(f"{base}/film.mp4", options=OPTIONS)
        assert (source.open().codec, next(source.frames()).size) == ("h264", (160, 96))
        source.close()


def test_unwanted_jpegs_are_not_decoded() -> None:
    with serving(STREAMS[next(iter(STREAMS))]) as base:
        source = open_source(f"{base}/video", options=OPTIONS)
        source.demand = FrameDemand(every=3600.0, wait=3600.0)
        source.open()
        frames = []
        with pytest.raises(SourceLost, match="closed the stream"):
            for frame in source.frames():
                frames.append(frame)  # noqa: PERF402 - keeps the frames before the end
        source.close()
    counts = source.statistics()
    assert counts["skipped"] > 0 and counts["frames"] == len(frames) == COUNT - counts["skipped"]
    assert source.skipped_at() is not None
