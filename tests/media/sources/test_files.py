"""Files: complete, truncated, damaged, empty, or not a video."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import av
import pytest
from PIL import Image

from streamcap.errors import StreamcapError
from streamcap.media.demand import FrameDemand
from streamcap.media.files.video_file import VideoFile
from streamcap.media.frame import Frame
from streamcap.media.sources import Source, SourceEnded, SourceOptions, SourceRefused, open_source
from testbed.programs import require_program
from tests.media.fakes import write_video

pytestmark = pytest.mark.slow

FAST = SourceOptions(realtime=False)


def read(source: Source) -> tuple[list[Frame], SourceEnded]:
    source.open()
    frames: list[Frame] = []
    with pytest.raises(SourceEnded) as ended:
        frames.extend(source.frames())
    source.close()
    source.close()
    return frames, ended.value


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_file_is_read_to_its_end(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, seconds=2.0, rate=10)
    source = open_source(str(path), options=FAST)
    frames: list[Frame] = []
    info = source.open()
    with pytest.raises(SourceEnded, match="played to its end"):
        for frame in source.frames():
            frames.append(frame)  # noqa: PERF402 - keeps the frames before the end
    source.close()
    assert (info.width, info.height, info.codec, info.live) == (160, 96, "h264", False)
    first = frames[0].time
    assert [frame.time - first for frame in frames] == pytest.approx([number / 10 for number in range(20)], abs=0.002)
    counts = source.statistics()
    assert (counts["frames"], counts["decode_errors"], counts["repaired_pts"], counts["epochs"]) == (20, 0, 0, 0)


def test_catching_up_decodes_keyframes_until_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.ts", seconds=5.0, rate=10)
    source = open_source(str(path), options=FAST)
    source.open()
    source.catch_up = True
    times: list[float] = []
    with pytest.raises(SourceEnded):
        for frame in source.frames():
            times.append(frame.time)
            source.catch_up = len(times) < 3
    source.close()
    first = times[0]
    # Three keyframes; from the third on every frame, whole.
    wanted = [0.0, 1.0, *(2.0 + number / 10 for number in range(30))]
    assert [time - first for time in times] == pytest.approx(wanted, abs=0.002)
    assert source.statistics()["decode_errors"] == 0


def test_frame_times_match_ffprobe(tmp_path: Path) -> None:
    ffprobe = require_program("ffprobe")
    path = write_video(tmp_path / "film.mp4", seconds=1.0, rate=12)
    run = [ffprobe, "-v", "error", "-select_streams", "v", "-show_entries", "frame=pts_time", "-of", "csv=p=0"]
    words = subprocess.run([*run, str(path)], check=True, capture_output=True, text=True).stdout.split()
    frames, _ = read(open_source(str(path), options=FAST))
    assert [frame.time for frame in frames] == pytest.approx([float(word.strip(",")) for word in words], abs=1e-5)


def test_raw_stream_uses_frame_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.h264", seconds=1.0, rate=25, container="h264")
    frames, _ = read(open_source(str(path), options=FAST))
    assert len(frames) == 25
    assert frames[-1].time - frames[0].time == pytest.approx(24 / 25, abs=0.05)


def test_realtime_playback_takes_file_duration(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", seconds=0.6, rate=10)
    frames, _ = read(open_source(str(path)))
    spans = [(frame.arrived - frames[0].arrived) - (frame.time - frames[0].time) for frame in frames]
    # A frame is never early; how late it is depends on the machine.
    assert min(spans) > -0.02


def test_truncated_file_yields_available_frames(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "film.ts", seconds=2.0)
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames, _ = read(open_source(str(cut), options=FAST))
    assert 5 <= len(frames) < 20


def test_damaged_video_continues_and_counts_errors(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.h264", seconds=3.0, rate=10, container="h264")
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, 2 * len(data) // 3, 37):
        data[at] ^= 0x55
    path.write_bytes(data)
    source = open_source(str(path), options=FAST)
    frames, _ = read(source)
    assert len(frames) > 10
    assert source.statistics()["decode_errors"] > 0


def test_resolution_change_is_followed(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{size[0]}.h264", size=size, container="h264").read_bytes()
        for size in ((160, 96), (320, 192), (64, 64))
    ]
    path = tmp_path / "film.h264"
    path.write_bytes(b"".join(parts))
    frames, _ = read(open_source(str(path), options=FAST))
    assert list(dict.fromkeys(frame.size for frame in frames)) == [(160, 96), (320, 192), (64, 64)]


def test_only_keyframes_are_decoded_on_demand(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", seconds=3.0, rate=10)
    source = open_source(str(path), options=FAST)
    source.demand = FrameDemand(decode="keyframes")
    frames, _ = read(source)
    assert [frame.time for frame in frames] == pytest.approx([0.0, 1.0, 2.0])
    assert source.statistics()["skipped"] == 27


def test_decode_on_demand_changes_while_it_plays(tmp_path: Path) -> None:
    """As `PATCH` and a reload change it: the connection stays."""
    source = open_source(str(write_video(tmp_path / "film.mp4", seconds=4.0, rate=10)), options=FAST)
    demand = source.demand = FrameDemand(decode="all")
    source.open()
    times = []
    with pytest.raises(SourceEnded):
        for frame in source.frames():
            times.append(frame.time)
            demand.decode = "keyframes" if 0.35 < frame.time < 1.95 else "all"
    source.close()
    assert [time for time in times if 0.55 < time < 2.05] == pytest.approx([1.0, 2.0])
    assert len([time for time in times if time > 2.05]) == 19


def refused(path: Path) -> SourceRefused:
    with pytest.raises(SourceRefused) as caught:
        open_source(str(path)).open()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value


def test_non_video_file_is_refused_permanently(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(range(256)) * 40)
    assert "no video that libav can read" in str(refused(path))
    path.write_bytes(b"")
    assert not refused(path).retry
    whole = write_video(tmp_path / "whole.mp4")
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "an MP4 without its index" in str(refused(path))
    path.unlink()
    assert "no such file" in str(refused(path))


def test_audio_only_file_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "sound.mp4", video=False, audio=True)
    error = refused(path)
    assert "there is audio, but no video" in str(error)
    assert not error.retry


def test_audio_with_cover_image_is_refused(tmp_path: Path) -> None:
    ffmpeg = require_program("ffmpeg")
    sound = write_video(tmp_path / "sound.mp4", video=False, audio=True)
    cover = tmp_path / "cover.jpg"
    Image.new("RGB", (64, 64), "red").save(cover)
    song = tmp_path / "song.m4a"
    run = [ffmpeg, "-v", "error", "-i", str(sound), "-i", str(cover), "-map", "0", "-map", "1", "-c", "copy"]
    subprocess.run([*run, "-disposition:v", "attached_pic", str(song)], check=True)
    assert "there is audio, but no video" in str(refused(song))


def test_playlist_cannot_leave_file_system(tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    refused(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("film.mp4", "libx264"), ("film.ts", "libx264"), ("film.flv", "libx264"), ("film.mjpg", "mjpeg")],
)
def test_frames_above_max_pixels_are_not_decoded(tmp_path: Path, name: str, codec: str) -> None:
    container = "mjpeg" if codec == "mjpeg" else None
    path = write_video(tmp_path / name, size=(640, 480), codec=codec, container=container)
    enough = SourceOptions(realtime=False, max_pixels=640 * 480)
    assert len(read(open_source(str(path), options=enough))[0]) == 10
    source = open_source(str(path), options=SourceOptions(realtime=False, max_pixels=640 * 480 - 1))
    with pytest.raises(StreamcapError, match=r"640×480, above the limit of 0\.307199 megapixels"):
        source.open()
        next(source.frames())
    source.close()


def test_larger_frames_in_the_middle_are_not_decoded(tmp_path: Path) -> None:
    sizes = ((160, 96), (320, 192), (64, 64))
    path = tmp_path / "film.h264"
    parts = [write_video(tmp_path / f"{size[0]}.h264", size=size, container="h264").read_bytes() for size in sizes]
    path.write_bytes(b"".join(parts))
    # Decoders pad rows to a multiple of 64.
    source = open_source(str(path), options=SourceOptions(realtime=False, max_pixels=192 * 96))
    frames, _ = read(source)
    assert {frame.size for frame in frames} == {(160, 96), (64, 64)}
    assert source.statistics()["decode_errors"] >= 10


def test_of_two_videos_source_and_file_take_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ffmpeg = require_program("ffmpeg")
    small = write_video(tmp_path / "small.mp4", size=(64, 48), seconds=1.0)
    large = write_video(tmp_path / "large.mp4", size=(320, 192), seconds=1.0)
    both = tmp_path / "both.ts"
    run = [ffmpeg, "-v", "error", "-i", str(small), "-i", str(large), "-map", "0", "-map", "1", "-c", "copy"]
    subprocess.run([*run, str(both)], check=True)
    with caplog.at_level("INFO"), VideoFile(both) as video:
        frames, _ = read(open_source(str(both), options=FAST))
    assert {frame.size for frame in frames} == {(video.width, video.height)}
    assert re.search(rf"taking stream \d+ \(\w+ {video.width}x{video.height}\), not", caplog.text)


def test_stop_ends_file_immediately(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "film.mp4", seconds=2.0)))
    source.open()
    frames = source.frames()
    next(frames)
    source.stop()
    assert next(frames, None) is None
    source.close()


def test_libav_logs_are_suppressed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"no video")
    refused(path)
    assert capfd.readouterr() == ("", "")
    assert av.logging.get_level() is None or av.logging.get_level() <= av.logging.ERROR


@pytest.mark.parametrize("name", ["film.webp", "film.gif.webp", "film"])
def test_animated_webp_is_played(tmp_path: Path, name: str) -> None:
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    images = [Image.new("RGB", (64, 48), color) for color in colors]
    images[0].save(tmp_path / name, "WEBP", save_all=True, append_images=images[1:], duration=[300, 200, 500])
    source = open_source(str(tmp_path / name), options=FAST)
    frames, ended = read(source)
    assert [frame.time for frame in frames] == [0, 0.3, 0.5]
    shown = [frame.video_frame.to_ndarray(format="rgb24")[0, 0].tolist() for frame in frames]
    assert shown == [pytest.approx(list(color), abs=12) for color in colors]
    assert "played to its end" in str(ended)
    assert source.statistics()["frames"] == 3


def test_still_webp_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.webp")
    with pytest.raises(SourceRefused, match="an image, not a video; use `streamcap caption`"):
        open_source(str(tmp_path / "photo.webp"), options=FAST).open()
