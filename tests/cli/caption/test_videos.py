"""`streamcap caption` of videos and animated images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.caption.fakes import STAMPS, Reader, Run, load, written
from tests.media.numbered_frames import ffmpeg, ffprobe_cues, ffprobe_times, numbered, read_number, write_numbered

pytestmark = pytest.mark.slow


def test_caption_folder_names_videos(run: Run, reader: Reader, images: Path, film: Path) -> None:
    (images / "clip.mp4").write_bytes(film.read_bytes())
    status, out, err = run(images)
    assert (status, out.count("\n")) == (0, 5)
    assert f"left out: {images / 'clip.mp4'}: a video; only images of a folder are captioned" in err
    assert err.endswith("5 captioned, 3 left out\n")


def _flip_film(tmp_path: Path, **turn: Any) -> Path:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.set_display_rotation(**turn)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(numbered(19, 80, 48), format="rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def test_caption_mirrored_video(run: Run, reader: Reader, tmp_path: Path) -> None:
    mirrored = sum(1 << (9 - bit) for bit in range(10) if 19 >> bit & 1)
    path = _flip_film(tmp_path, degrees=0, hflip=True)
    status, out, _ = run(path, "-n", 1, "--save-frames", tmp_path / "frames")
    assert (status, out) == (0, f"00:00:00.000  number {mirrored}\n")
    (frame,) = (tmp_path / "frames").iterdir()
    assert read_number(np.asarray(load(frame))) == mirrored


def test_caption_saves_anamorphic_frames_wide(run: Run, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "anamorphic.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=96x96:rate=5:duration=1,setsar=16/9", path)
    assert run(path, "-n", 1, "--save-frames", tmp_path / "frames")[0] == 0
    (frame,) = (tmp_path / "frames").iterdir()
    assert load(frame).size == (171, 96)


def test_caption_tells_which_of_several_videos(run: Run, reader: Reader, tmp_path: Path) -> None:
    film = write_numbered(tmp_path / "two.mkv", [0, 100], others=["small video"])
    status, out, err = run(film, "-n", 1)
    assert (status, out) == (0, "00:00:00.000  number 0\n")
    assert err == (f"{film}: 2 videos in it; taking stream 1 (h264 80x48), not stream 0 (mpeg4 16x16)\n")


@pytest.mark.parametrize("suffix", [".webp", ".apng", ".png", ".webp.png"])
def test_caption_animated_image_as_video(run: Run, reader: Reader, tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(numbered(number, 80, 48)) for number in range(1, 5)]
    path = tmp_path / f"moving{suffix}"
    kind = "WEBP" if ".webp" in suffix else "PNG"
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=500, loop=0, **options)
    assert run(path)[1] == "number 1\n"
    status, out, err = run(path, "--every", 1, "-o", tmp_path / "out.srt")
    assert (status, out, err) == (0, "", "")
    assert (tmp_path / "out.srt").read_text().splitlines() == [
        "1", "00:00:00,000 --> 00:00:01,000", "number 1", "",
        "2", "00:00:01,000 --> 00:00:02,000", "number 3", "",
    ]  # fmt: skip


def test_subtitle_times_match_ffprobe(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    truth = [round(1000 * time) for time in ffprobe_times(film) if time is not None]
    assert run(film, "-n", 10, "-o", tmp_path / "film.srt") == (0, "", "")
    texts = [block.splitlines()[2] for block in (tmp_path / "film.srt").read_text().strip().split("\n\n")]
    numbers = [int(text.removeprefix("number ")) for text in texts]
    cues = ffprobe_cues(tmp_path / "film.srt")
    assert len(cues) == 10
    assert [round(1000 * begin) for begin, _ in cues] == [truth[number] for number in numbers]
    ends = [round(1000 * (begin + duration)) for begin, duration in cues]
    assert ends[:-1] == [round(1000 * begin) for begin, _ in cues[1:]]
    assert ends[-1] == truth[-1] + 40


def test_every_frame_gets_a_cue(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    assert run(film, "-n", 1000, "-o", tmp_path / "film.vtt")[0] == 0
    cues = ffprobe_cues(tmp_path / "film.vtt")
    assert [round(1000 * begin) for begin, _ in cues] == STAMPS
    assert (tmp_path / "film.vtt").read_text().startswith("WEBVTT\n")


def test_legacy_json_format(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    assert run(film, "--every", 1, "-o", tmp_path / "film.json", "--lang", "de")[0] == 0
    entries = json.loads((tmp_path / "film.json").read_text())
    assert entries[0] == {"start": "00:00:00,000", "end": "00:00:00,880", "lang": "de", "text": "number 0"}
    assert [entry["text"] for entry in entries] == ["number 0", "number 17", "number 35"]
    assert [list(entry) for entry in entries] == [["start", "end", "lang", "text"]] * 3


def test_text_on_stdout(run: Run, reader: Reader, film: Path) -> None:
    status, out, err = run(film, "-n", 2)
    assert (status, err) == (0, "")
    assert out == "00:00:00.000  number 0\n00:00:01.200  number 20\n"


def test_subtitle_formats_on_stdout(run: Run, reader: Reader, film: Path) -> None:
    assert run(film, "-n", 1, "--format", "srt")[1] == "1\n00:00:00,000 --> 00:00:02,400\nnumber 0\n\n"
    assert json.loads(run(film, "-n", 1, "--format", "json")[1])[0]["text"] == "number 0"
    (entry,) = json.loads(run(film, "-n", 1, "--json")[1])
    assert entry["path"] == str(film)
    assert entry["captions"][0]["text"] == "number 0"
    assert {caption["confidence"] for caption in entry["captions"]} == {0.75}


def test_merge_joins_equal_neighbors(run: Run, reader: Reader, film: Path) -> None:
    reader.encode = lambda pixels: torch.tensor([[7]] * len(pixels))  # type: ignore[method-assign]
    assert run(film, "-n", 9, "--format", "srt", "--merge")[1] == "1\n00:00:00,000 --> 00:00:02,400\nnumber 7\n\n"
    assert run(film, "-n", 9, "--merge")[1] == "00:00:00.000  number 7\n"


def test_captioned_frames_are_saved(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    run(film, "-n", 2, "--save-frames", tmp_path / "clean", "--annotate", tmp_path / "drawn")
    assert written(tmp_path / "clean") == ["frame_0001_0.000s.jpg", "frame_0002_1.200s.jpg"]
    assert written(tmp_path / "drawn") == written(tmp_path / "clean")
    assert read_number(np.asarray(load(tmp_path / "clean" / "frame_0002_1.200s.jpg"))) == 20
    assert load(tmp_path / "drawn" / "frame_0001_0.000s.jpg").height > 48


def test_clip_model_gets_frame_windows(run: Run, reader: Reader, film: Path) -> None:
    reader.clip_length = 4
    assert run(film)[1] == "00:00:00.000  number 0 13 26 39\n"
    assert run(film, "-n", 2)[1] == "00:00:00.000  number 0 6 13 19\n00:00:01.200  number 20 26 33 39\n"


def test_several_videos_go_into_a_directory(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    other = write_numbered(tmp_path / "other.mkv", range(0, 400, 40))
    assert run(film, other, "-n", 2, "-o", tmp_path / "out")[0] == 0
    assert written(tmp_path / "out") == ["film.srt", "other.srt"]
    assert "number 5" in (tmp_path / "out" / "other.srt").read_text()
    assert run(film, "--format", "vtt", "-o", f"{tmp_path}/new/")[0] == 0
    assert written(tmp_path / "new") == ["film.vtt"]
    lines = run(film, other, "-n", 1)[1].splitlines()
    assert lines == [f"{film}: 00:00:00.000  number 0", f"{other}: 00:00:00.000  number 0"]


def test_decoding_options_reach_model(run: Run, reader: Reader, film: Path) -> None:
    assert run(film, "-n", 1, "--beam", 5)[1] == "00:00:00.000  beam 5 number 0\n"
    assert run(film, "-n", 1, "--temperature", 0.7, "--seed", 3)[1] == "00:00:00.000  seed 3 number 0\n"


def test_animated_gif_is_a_video_when_times_requested(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    ffmpeg("-i", film, tmp_path / "film.gif")
    assert run(tmp_path / "film.gif")[1] == "number 0\n"
    assert run(tmp_path / "film.gif", "-n", 2)[1].startswith("00:00:00.000  number 0\n00:00:01")
