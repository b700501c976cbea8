"""`VideoFile`: requested frames with exact times, for many kinds of files."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from streamcap.errors import InputError
from streamcap.media.files import video_file
from streamcap.media.files.image_file import upright
from streamcap.media.files.video_file import ChosenFrame, VideoFile
from streamcap.media.sources.base import SourceEnded, SourceRefused
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.options import SourceOptions
from tests.media.numbered_frames import ffmpeg, ffprobe_times, numbered, read_number, write_numbered

pytestmark = pytest.mark.slow

COUNT = 90
# Variable rate: steps of 40 ms, every seventh frame lasts 250 ms.
STAMPS = [40 * number + 210 * (number // 7) for number in range(COUNT)]
GOP = {"g": "15", "bf": "3", "preset": "veryfast", "sc_threshold": "0"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variable rate, keyframes every 15 frames, B-frames between."""
    return write_numbered(tmp_path_factory.mktemp("film") / "film.mp4", STAMPS, options=GOP)


def number(frame: ChosenFrame) -> int:
    return read_number(frame.video_frame.to_ndarray(format="rgb24"))


def chosen(path: Path, choose: Callable[[VideoFile], list[int]]) -> list[ChosenFrame]:
    with VideoFile(path) as video:
        return list(video.frames(choose(video)))


def test_frame_times_are_exact(film: Path) -> None:
    truth = ffprobe_times(film)
    frames = chosen(film, lambda video: list(range(COUNT)))
    assert [number(frame) for frame in frames] == list(range(COUNT))
    assert [frame.seconds for frame in frames] == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("ordinals", [[0], [89], [3, 40, 41, 88], [14, 15, 16, 29, 30, 60], list(range(0, 90, 11))])
def test_seeking_finds_requested_frames(film: Path, ordinals: list[int]) -> None:
    frames = chosen(film, lambda video: ordinals)
    assert [number(frame) for frame in frames] == ordinals
    assert [round(1000 * frame.seconds) for frame in frames] == [STAMPS[ordinal] for ordinal in ordinals]


def test_sparse_frames_do_not_decode_whole_file(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamcap.media.files import video_file

    read = 0

    def counting(packet: av.Packet) -> list[av.VideoFrame]:
        nonlocal read
        read += 1
        return decode(packet)

    decode = video_file.video_frames
    monkeypatch.setattr(video_file, "video_frames", counting)
    chosen(film, lambda video: [0, 45, 75])
    assert read < COUNT / 2


REMUXED = {
    "matroska": ("film.mkv", ["-c", "copy"]),
    "without a duration": ("film.mkv", ["-c", "copy", "-f", "matroska", "-live", "1"]),
    "fragmented": ("film.mp4", ["-c", "copy", "-movflags", "frag_keyframe+empty_moov"]),
    "open GOP": ("film.mp4", ["-c:v", "libx264", "-fps_mode", "passthrough", "-x264-params", "open-gop=1:keyint=15"]),
    "transport stream": ("film.ts", ["-c", "copy"]),
    "flash": ("film.flv", ["-c", "copy"]),
    "AVI": ("film.avi", ["-c:v", "mpeg4", "-q:v", "2", "-vsync", "cfr", "-r", "25"]),
    "AVI with B-frames": ("film.avi", ["-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-r", "25"]),
    "raw H.264": ("film.h264", ["-c", "copy"]),
    "WebM": (
        "film.webm",
        ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-fps_mode", "passthrough"],
    ),
    "HEVC": (
        "film.mp4",
        ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-fps_mode", "passthrough"],
    ),
    "MPEG-2 program stream": ("film.mpg", ["-c:v", "mpeg2video", "-q:v", "2", "-bf", "2", "-r", "25"]),
}


@pytest.mark.parametrize("kind", REMUXED)
def test_any_container(film: Path, tmp_path: Path, kind: str) -> None:
    name, options = REMUXED[kind]
    ffmpeg("-i", film, *options, tmp_path / name)
    everything = [number(frame) for frame in chosen(tmp_path / name, lambda video: list(range(len(video.index.pts))))]
    assert set(everything) == set(range(COUNT))
    with VideoFile(tmp_path / name) as video:
        wanted = video.index.spread(6)
        frames = list(video.frames(wanted))
    assert [number(frame) for frame in frames] == [everything[ordinal] for ordinal in wanted]
    assert video.undecodable == 0
    if kind == "raw H.264":
        # It has no timestamps; frames follow each other evenly from 0.
        assert frames[0].seconds == 0
        assert np.diff(video.index.pts).min() == np.diff(video.index.pts).max()
        return
    truth = ffprobe_times(tmp_path / name)
    known = [place for place in range(6) if truth[wanted[place]] is not None]
    begin = truth[0] if name.endswith((".ts", ".mpg")) else 0
    assert len(known) >= 5
    for place in known:
        assert frames[place].seconds == pytest.approx(truth[wanted[place]] - begin, abs=5e-4)


def test_restarted_clock_continues(film: Path, tmp_path: Path) -> None:
    """Two recordings of a broadcast, one after the other in one file."""
    ffmpeg("-i", film, "-c", "copy", tmp_path / "part.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "part.ts").read_bytes() * 2)
    with VideoFile(joined) as video:
        assert len(video.index.pts) >= 2 * COUNT - 4
        assert video.index.duration == pytest.approx(2 * (STAMPS[-1] + 40) / 1000, rel=0.05)
        assert number(next(video.frames([len(video.index.pts) - 1]))) == COUNT - 1


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("libx264", "yuv420p10le", (80, 48)),
        ("libx264", "yuv444p", (81, 47)),
        ("ffv1", "gbrp10le", (81, 47)),
        ("ffv1", "gray", (80, 48)),
        ("mpeg4", "yuv420p", (98, 46)),
    ],
)
def test_ten_bit_odd_size_and_gray_video(tmp_path: Path, codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
    path = write_numbered(tmp_path / "film.mkv", range(0, 400, 40), codec=codec, pix_fmt=pix_fmt, size=size)
    frames = chosen(path, lambda video: video.index.spread(5))
    assert [number(frame) for frame in frames] == [0, 2, 4, 6, 8]


def test_best_of_several_streams_is_used(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "film.mkv", range(0, 400, 40), others=["small video", "audio"])
    assert [number(frame) for frame in chosen(path, lambda video: [0, 9])] == [0, 9]


def turned(mp4: bytes, degrees: int) -> bytes:
    """The display matrix of the first track replaced by a rotation (ISO 14496-12, 8.3.2)."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    place = mp4.index(b"tkhd") + 44
    return mp4[:place] + matrix + mp4[place + 36 :]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotated_phone_video_is_upright(film: Path, tmp_path: Path, turn: int) -> None:
    """Compared with ffmpeg, which also applies the display matrix."""
    (tmp_path / "turned.mp4").write_bytes(turned(film.read_bytes(), turn))
    ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v", "1", tmp_path / "truth.png")
    (frame,) = chosen(tmp_path / "turned.mp4", lambda video: [0])
    seen = np.asarray(upright(frame.video_frame)).astype(int)
    with Image.open(tmp_path / "truth.png") as image:
        truth = np.asarray(image.convert("RGB")).astype(int)
    assert seen.shape == truth.shape
    assert abs(seen - truth).mean() < 3


def spoil(path: Path, ordinal: int) -> None:
    """Overwrite the packet of one frame."""
    with av.open(str(path)) as container:
        packet = sorted((p for p in container.demux(video=0) if p.pts is not None), key=lambda p: p.pts)[ordinal]
        place, size = packet.pos, packet.size
    assert place is not None
    with path.open("r+b") as file:
        file.seek(place + 12)
        file.write(b"\xff" * (size - 16))


def test_undecodable_frame_shifts_no_other(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "film.mp4", range(0, 800, 40), codec="mpeg4", options={"g": "1"})
    spoil(path, 8)
    with VideoFile(path) as video:
        frames = list(video.frames([4, 8, 12]))
    kept = {frame.wanted: frame for frame in frames}
    assert kept.keys() - {8} == {4, 12}
    for wanted in (4, 12):
        assert (number(kept[wanted]), kept[wanted].seconds) == (wanted, wanted * 0.04)
    for frame in frames:
        assert frame.seconds == pytest.approx(0.04 * frame.ordinal)


def test_truncated_file_yields_available_frames(film: Path, tmp_path: Path) -> None:
    ffmpeg("-i", film, "-c", "copy", "-movflags", "+faststart", tmp_path / "whole.mp4")
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    frames = chosen(tmp_path / "cut.mp4", lambda video: video.index.spread(5))
    assert 1 < len(frames) <= 5
    assert [number(frame) for frame in frames] == [frame.ordinal for frame in frames]


def write_song(path: Path, folder: Path) -> None:
    sound = ["-f", "lavfi", "-i", "sine=duration=0.2"]
    Image.fromarray(numbered(1, 64, 64)).save(folder / "cover.png")
    cover = ["-i", folder / "cover.png", "-map", "0", "-map", "1", "-c:v", "png", "-disposition:v", "attached_pic"]
    ffmpeg(*sound, *cover, path)


BAD: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "no such file": ("film.mp4", lambda path, _: None),
    "empty": ("film.mp4", lambda path, _: path.touch()),
    "not a video": ("film.mp4", lambda path, _: path.write_text("once upon a time\n" * 99)),
    "text": ("notes.txt", lambda path, _: path.write_text("once upon a time\n" * 99)),
    "cut before its index": ("film.mp4", lambda path, film: path.write_bytes(film.read_bytes()[:3000])),
    "a directory": ("film.mp4", lambda path, _: path.mkdir()),
    "only sound": ("song.m4a", lambda path, film: ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", path)),
    "a song with its cover": ("song.m4a", lambda path, film: write_song(path, path.parent)),
    "a frame": ("film.jpg", lambda path, _: Image.new("RGB", (9, 9)).save(path)),
    "subtitles": ("film.srt", lambda path, _: path.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")),
}


@pytest.mark.parametrize("kind", BAD)
def test_non_video_file_is_refused_in_one_line(film: Path, tmp_path: Path, kind: str) -> None:
    name, make = BAD[kind]
    make(tmp_path / name, film)
    with pytest.raises(InputError) as refused:
        VideoFile(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / name))


def test_playlist_cannot_reach_network(tmp_path: Path) -> None:
    path = tmp_path / "film.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError):
        VideoFile(path)


def test_file_name_with_colon(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "rtsp:film 100%.mp4"
    shutil.copy(film, path)
    assert [number(frame) for frame in chosen(path, lambda video: [7])] == [7]


def test_close_is_idempotent(film: Path) -> None:
    video = VideoFile(film)
    video.close()
    video.close()


def test_oversized_video_is_refused(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(InputError, match=r"frames of 80x48 pixels; at most 0 megapixels"):
        VideoFile(film)


def test_mp4_without_its_index_is_named(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "unfinished.mp4"
    content = film.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])
    with pytest.raises(
        InputError, match=r"unfinished\.mp4: an MP4 without its index \(moov box\): its recording was not"
    ):
        VideoFile(path)
    with pytest.raises(SourceRefused, match=r"unfinished\.mp4: an MP4 without its index"):
        LibavSource(str(path), SourceOptions()).open()


def test_raw_jpegs_are_a_video(tmp_path: Path) -> None:
    path = tmp_path / "camera.mjpeg"
    with path.open("wb") as file:
        for number in range(8):
            Image.fromarray(numbered(number, 80, 48)).save(file, "JPEG", quality=95)
    with VideoFile(path) as video:
        assert [read_number(np.asarray(upright(frame.video_frame))) for frame in video.frames(range(8))] == list(
            range(8)
        )
    source = LibavSource(str(path), SourceOptions(realtime=False))
    source.open()
    with pytest.raises(SourceEnded):
        list(source.frames())
    assert source.statistics()["frames"] == 8
    source.close()


def test_photo_is_not_played_as_video(tmp_path: Path) -> None:
    path = tmp_path / "photo.mp4"
    Image.new("RGB", (64, 64)).save(path, "AVIF")
    with pytest.raises(SourceRefused, match="an image, not a video; use `streamcap caption`"):
        LibavSource(str(path), SourceOptions()).open()
