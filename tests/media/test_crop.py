"""`CropScaler`, compared with scaling the complete frame and cropping it."""

from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.crop import CropScaler, CropSpan, crop_span, is_worthwhile
from tests.media.fakes import drawn

_FLAGS = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR, "area": Interpolation.AREA}


def whole(video_frame: av.VideoFrame, spec: ImageSpec) -> np.ndarray:
    placed = spec.place(video_frame.width, video_frame.height)
    scaled = VideoReformatter().reformat(
        video_frame, placed.scaled_width, placed.scaled_height, "rgb24", interpolation=_FLAGS[spec.interpolation]
    )
    left, top = -placed.left, -placed.top
    return scaled.to_ndarray()[top : top + spec.height, left : left + spec.width].astype(int)


def noisy(width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A synthetic scene with noise, so that a shift of a pixel is visible."""
    pixels = drawn(width, height).to_ndarray(format="rgb24").astype(int)
    pixels += np.random.default_rng(1).integers(-30, 31, pixels.shape)
    frame = av.VideoFrame.from_ndarray(np.clip(pixels, 0, 255).astype(np.uint8), format="rgb24")
    return frame.reformat(format=pixel_format)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "area"])
@pytest.mark.parametrize("size", [(1280, 720), (640, 480), (270, 480), (641, 361)])
def test_crop_matches_full_scale_and_crop(size: tuple[int, int], interpolation: str) -> None:
    spec = ImageSpec(112, 112, "crop", interpolation)  # type: ignore[arg-type]
    video_frame = noisy(*size)
    placed = spec.place(*size)
    assert is_worthwhile(video_frame, placed, 112, 112)
    got = CropScaler(video_frame, placed, 112, 112, interpolation).scale(video_frame).astype(int)
    difference = np.abs(got - whole(video_frame, spec))
    assert got.shape == (112, 112, 3)
    # For an image of odd size, libav stretches the chroma planes, which are half a pixel too large; for a crop it does
    # not.
    assert difference.mean() < (2 if size[0] % 2 else 1)
    assert (Converter(spec).convert(video_frame) == got).all()


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("matrix", [1, 5, 2], ids=["BT.709", "BT.601", "unknown"])
def test_colors_follow_matrix_and_range(pixel_format: str, matrix: int) -> None:
    spec = ImageSpec(96, 96)
    video_frame = noisy(640, 360, pixel_format)
    video_frame.colorspace = matrix
    assert np.abs(Converter(spec).convert(video_frame).astype(int) - whole(video_frame, spec)).mean() < 1


def test_crop_bounds_are_even_source_pixels() -> None:
    assert crop_span(1280, 398, 87, 224) == CropSpan(79, 319, 254, 1026)
    assert crop_span(224, 224, 0, 224) == CropSpan(0, 224, 0, 224)
    assert crop_span(361, 112, 0, 112) == CropSpan(0, 112, 0, 361)
    for source in range(300, 2000, 37):
        scaled = round(source / 2.7)
        found = crop_span(source, scaled, (scaled - 100) // 2, 100)
        assert 0 <= found.start < found.stop <= source
        assert abs(found.start - found.first * source / scaled) < 1
        assert found.first <= (scaled - 100) // 2 and found.last >= (scaled - 100) // 2 + 100


@pytest.mark.parametrize(("size", "fit", "pixel_format"), [
    ((640, 360), "squash", "yuv420p"), ((640, 360), "pad", "yuv420p"), ((640, 360), "crop", "rgb24"),
    ((96, 96), "crop", "yuv420p"), ((64, 48), "crop", "yuv420p"),
])  # fmt: skip
def test_other_formats_are_scaled_whole(size: tuple[int, int], fit: str, pixel_format: str) -> None:
    spec = ImageSpec(80, 80, fit)  # type: ignore[arg-type]
    assert not is_worthwhile(drawn(*size).reformat(format=pixel_format), spec.place(*size), 80, 80)


def test_unsupported_filter_falls_back_to_full_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def refuse(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise av.FFmpegError(22, "no")

    monkeypatch.setattr(CropScaler, "__init__", refuse)
    spec = ImageSpec(112, 112)
    video_frame = drawn(640, 360)
    converter = Converter(spec)
    for _ in range(2):
        np.testing.assert_array_equal(converter.convert(video_frame), whole(video_frame, spec))
    assert asked == 1
