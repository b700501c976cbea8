"""Converted frames, compared with Pillow's scaling and ffmpeg's rotation."""

from __future__ import annotations

import struct
import subprocess
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from streamcap.image_spec import Fit, ImageSpec, Interpolation
from streamcap.media.convert import Converter
from streamcap.media.scenes import draw
from testbed.programs import require_program
from tests.media.fakes import SCENE, drawn, made_frame, write_video

_PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
}


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "area"])
@pytest.mark.parametrize("size", [(640, 360), (270, 480), (96, 96)])
def test_conversion_matches_pillow(fit: Fit, interpolation: Interpolation, size: tuple[int, int]) -> None:
    spec = ImageSpec(112, 112, fit, interpolation, mean=(0.5, 0.25, 1.0))
    got = Converter(spec).convert(drawn(*size)).astype(int)
    placed = spec.place(*size)
    scaled = Image.fromarray(draw(SCENE, 0.0, *size)).resize(
        (placed.scaled_width, placed.scaled_height), _PILLOW[interpolation]
    )
    expected = Image.new("RGB", (112, 112), spec.fill)
    expected.paste(scaled, (placed.left, placed.top))
    difference = np.abs(got - np.asarray(expected).astype(int))
    assert difference.mean() < 6
    assert got.shape == (112, 112, 3)
    if fit == "pad" and size == (640, 360):
        assert (got[0] == spec.fill).all()
        assert (got[-1] == spec.fill).all()


def test_pixels_outlive_frame_and_next_conversion() -> None:
    convert = Converter(ImageSpec(64, 64, "squash"))
    first = convert([made_frame(0.0)])
    kept = first.copy()
    convert.convert(drawn(640, 360))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.owndata
    assert first.flags.c_contiguous


def test_frame_size_may_change() -> None:
    convert = Converter(ImageSpec(64, 48))
    for size in ((640, 360), (320, 240), (16, 16), (1280, 720), (640, 360)):
        assert convert.convert(drawn(*size)).shape == (48, 64, 3)


def test_clip_model_gets_all_frames_oldest_first() -> None:
    frames = [made_frame(float(number), size=(32, 32)) for number in range(3)]
    assert Converter(ImageSpec(16, 16), clip_length=3)(frames).shape == (3, 16, 16, 3)
    assert Converter(ImageSpec(16, 16))(frames).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="no frames"):
        Converter(ImageSpec(16, 16))([])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "rgb24", "gray", "nv12", "yuv444p", "bgra"])
def test_any_pixel_format(pixel_format: str) -> None:
    video_frame = drawn(320, 180).reformat(format=pixel_format)
    got = Converter(ImageSpec(80, 45, "squash")).convert(video_frame).astype(int)
    expected = np.asarray(Image.fromarray(draw(SCENE, 0.0, 320, 180)).resize((80, 45), Image.Resampling.BICUBIC))
    if pixel_format != "gray":
        assert np.abs(got - expected).mean() < 6


def test_concurrent_conversion() -> None:
    convert = Converter(ImageSpec(48, 48))
    video_frames = [drawn(160 + 16 * number, 96) for number in range(4)]
    alone = [convert.convert(video_frame) for video_frame in video_frames]
    wrong: list[int] = []

    def work(number: int) -> None:
        converted = [convert.convert(video_frames[number]) for _ in range(20)]
        wrong.extend(number for pixels in converted if not np.array_equal(pixels, alone[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# The top left four of a track header's 3 x 3 matrix (ISO 14496-12, 8.3.2), in 16.16 fixed point, for turns clockwise.
_MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("rotation", _MATRICES)
def test_rotated_video_matches_ffmpeg(tmp_path: Path, rotation: int) -> None:
    ffmpeg = require_program("ffmpeg")
    turned = write_video(tmp_path / "turned.mp4", seconds=0.3, size=(160, 96))
    film = bytearray(turned.read_bytes())
    matrix = film.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 65536 for value in _MATRICES[rotation])
    film[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned.write_bytes(film)
    upright = tmp_path / "upright.png"
    subprocess.run([ffmpeg, "-v", "error", "-y", "-i", str(turned), "-frames:v", "1", str(upright)], check=True)
    with av.open(str(turned)) as opened:
        video_frame = next(opened.decode(video=0))
    with Image.open(upright) as seen:
        expected = np.asarray(seen.convert("RGB")).astype(int)
    height, width = expected.shape[:2]
    assert (width < height) == (rotation != 180)
    got = Converter(ImageSpec(width, height, "squash")).convert(video_frame).astype(int)
    assert np.abs(got - expected).mean() < 4
