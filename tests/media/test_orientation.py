"""Rotation, flips and pixel aspect ratio, compared with ffmpeg."""

from __future__ import annotations

import itertools
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.files.image_file import upright
from streamcap.media.files.video_file import VideoFile
from streamcap.media.orientation import display_size, sample_aspect
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.options import SourceOptions
from testbed.programs import require_program
from tests.media.fakes import drawn

pytestmark = pytest.mark.slow


def _write(path: Path, degrees: int, *, flip: bool) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.set_display_rotation(degrees, hflip=flip)
        for _ in range(2):
            out.mux(stream.encode(drawn(160, 96)))
        out.mux(stream.encode(None))
    return path


def _first_frame(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as opened:
        return next(opened.decode(video=0))


@pytest.mark.parametrize(("degrees", "flip"), list(itertools.product([0, 90, 180, 270], [False, True])))
def test_display_matrix_is_applied_as_ffmpeg_does(tmp_path: Path, degrees: int, flip: bool) -> None:
    ffmpeg = require_program("ffmpeg")
    path = _write(tmp_path / "turned.mp4", degrees, flip=flip)
    expected_file = tmp_path / "expected.png"
    subprocess.run([ffmpeg, "-v", "error", "-y", "-i", path, "-frames:v", "1", expected_file], check=True)
    with Image.open(expected_file) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    frame = _first_frame(path)
    shown = np.asarray(upright(frame)).astype(int)
    assert shown.shape == expected.shape
    assert abs(shown - expected).mean() < 3
    height, width = expected.shape[:2]
    converted = Converter(ImageSpec(width, height, "squash")).convert(frame).astype(int)
    assert abs(converted - expected).mean() < 4


def _anamorphic(path: Path, *, where: str) -> Path:
    """96x96 of pixels 16:9, declared by the container only or by the codec only."""
    ffmpeg = require_program("ffmpeg")
    source = ["-f", "lavfi", "-i", "testsrc=size=96x96:rate=5:duration=0.6"]
    filters = ["-vf", "setsar=16/9"] if where == "codec" else ["-aspect", "16:9", "-c:v", "mjpeg"]
    subprocess.run([ffmpeg, "-v", "error", "-y", *source, *filters, path], check=True)
    return path


@pytest.mark.parametrize(("where", "name"), [("codec", "film.ts"), ("container", "film.mkv")])
def test_sample_aspect_of_container_and_codec(tmp_path: Path, where: str, name: str) -> None:
    path = _anamorphic(tmp_path / name, where=where)
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        next(opened.decode(stream))
        assert sample_aspect(stream) == Fraction(16, 9)
    with VideoFile(path) as video:
        (chosen,) = video.frames([0])
    assert upright(chosen.video_frame, chosen.sample_aspect).size == (171, 96)


def test_converter_crops_anamorphic_frame_as_shown() -> None:
    frame = drawn(180, 180)
    spec = ImageSpec(112, 112, "crop")
    wide = frame.reformat(width=320, height=180, format="rgb24").to_ndarray()
    expected = Converter(spec).convert(av.VideoFrame.from_ndarray(wide, format="rgb24")).astype(int)
    converter = Converter(spec)
    assert abs(converter.convert(frame, Fraction(16, 9)).astype(int) - expected).mean() < 4
    # The same converter, then square pixels.
    square = Converter(spec).convert(frame).astype(int)
    assert abs(converter.convert(frame).astype(int) - square).max() == 0


def test_served_file_carries_its_sample_aspect(tmp_path: Path) -> None:
    path = _anamorphic(tmp_path / "film.ts", where="codec")
    source = LibavSource(str(path), SourceOptions(realtime=False))
    source.open()
    try:
        assert next(iter(source.frames())).sample_aspect == Fraction(16, 9)
    finally:
        source.close()


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(1), (100, 50)), (Fraction(16, 9), (178, 50)), (Fraction(1, 2), (100, 100))]
)
def test_display_size_never_shrinks(aspect: Fraction, size: tuple[int, int]) -> None:
    assert display_size(100, 50, aspect) == size
