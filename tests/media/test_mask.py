"""Masks: which pixels a polygon covers, and that no masked pixel leaves the ring, in any format and rotation."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.frame_mask import FrameMask, UnmaskableError, rasterize
from streamcap.media.mask import Mask, Polygon
from streamcap.media.orientation import orientation_of, show
from streamcap.media.ring import FrameRing
from tests.examples import examples
from tests.media.fakes import drawn, made_frame

TRIANGLE: Polygon = ((0.1, 0.1), (0.6, 0.2), (0.2, 0.7))
FORMATS = [
    "yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv411p", "yuv420p10le", "yuv444p12le", "nv12", "nv21",
    "nv16", "p010le", "gray", "gray10le", "gbrp", "yuva420p", "yuyv422", "uyvy422", "rgb24", "bgr24", "rgba",
    "bgra", "argb", "abgr", "gbrap", "bgr0", "rgb565le", "rgb48le", "ya8", "monow",
]  # fmt: skip
coordinates = st.floats(0, 1)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=6).map(tuple)
masks = st.lists(polygons, min_size=1, max_size=3).map(tuple)


CONVERTERS = [
    Converter(spec).convert for spec in (ImageSpec(32, 32), ImageSpec(24, 40, "pad"), ImageSpec(64, 36, "squash"))
]


def masked(video_frame: av.VideoFrame, mask: Mask) -> av.VideoFrame:
    """What leaves a ring with that mask."""
    ring = FrameRing(seconds=1, frames=1, mask=mask)
    ring.push(replace(made_frame(0.0), video_frame=video_frame))
    newest = ring.newest()
    assert newest is not None
    return newest.video_frame


def noise(form: str, pixels: np.ndarray[Any, Any]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form)


def grown(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`pixels` and those within four of them."""
    wide = np.logical_or.reduce([np.roll(pixels, shift, 0) for shift in range(-4, 5)])
    return np.asarray(np.logical_or.reduce([np.roll(wide, shift, 1) for shift in range(-4, 5)]))


@settings(max_examples=examples(60))
@given(
    triangle=st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=3),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_rasterize_covers_all_of_a_triangle(
    triangle: list[tuple[float, float]], width: int, height: int, seed: int
) -> None:
    got = rasterize(tuple(triangle), width, height)
    # Every weighted mean of the corners lies in the triangle.
    weights = np.random.default_rng(seed).dirichlet((0.5, 0.5, 0.5), 200)
    inside = weights @ (np.array(triangle) * (width, height))
    columns, rows = np.minimum(inside, (width - 1, height - 1)).astype(int).T
    near_edge = np.abs(inside - np.round(inside)).min(axis=1) < 1e-6
    assert got[rows, columns][~near_edge].all()
    ys, xs = np.nonzero(got)
    assert min(y for _, y in triangle) * height - 1 <= ys.min() <= ys.max() <= max(y for _, y in triangle) * height
    assert min(x for x, _ in triangle) * width - 1 <= xs.min() <= xs.max() <= max(x for x, _ in triangle) * width


def test_rasterize_rectangle_exactly() -> None:
    got = rasterize(((0.26, 0.26), (0.74, 0.26), (0.74, 0.99), (0.26, 0.99)), 4, 8)
    expected = np.zeros((8, 4), np.bool_)
    expected[2:, 1:3] = True
    np.testing.assert_array_equal(got, expected)


def test_rasterize_fills_what_a_star_goes_round() -> None:
    star = tuple(
        (0.5 + 0.45 * np.sin(turn * 4 * np.pi / 5), 0.5 - 0.45 * np.cos(turn * 4 * np.pi / 5)) for turn in range(5)
    )
    assert rasterize(star, 50, 50)[25, 25]


def test_rasterize_takes_subnormal_coordinates() -> None:
    got = rasterize(((0.0, 0.0), (0.0, 0.0), (1.0, 2.225073858507e-311)), 4, 3)
    expected = np.zeros((3, 4), np.bool_)
    expected[0] = True
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("form", FORMATS)
def test_masked_pixels_change_no_byte_in_any_format(form: str) -> None:
    rng = np.random.default_rng(0)
    # libswscale reads 16-bit gray past the lines of narrower images, so that its results change from call to call.
    first, second = rng.integers(0, 256, (2, 36, 64, 3), np.uint8)
    pixels = rasterize(TRIANGLE, 64, 36)
    # Conversion to a format with fewer color samples mixes neighbors: differ only where all around is masked.
    changed = ~grown(~pixels)
    second = np.where(changed[..., None], second, first)
    assert changed.any()
    one, two = (masked(noise(form, image), (TRIANGLE,)) for image in (first, second))
    np.testing.assert_array_equal(show(one), show(two))
    shown = show(one).astype(int)
    assert abs(shown[changed] - 128).max() <= (3 if form != "monow" else 128)
    plain = show(noise(form, first)).astype(int)
    assert abs(shown - plain)[~grown(pixels)].max() <= 2


@pytest.mark.parametrize("form", ["yuva420p", "yuva444p", "gbrap", "rgba", "argb", "bgra", "abgr", "ya8", "rgba64le"])
def test_transparency_of_masked_pixels_is_not_shown(form: str) -> None:
    rng = np.random.default_rng(0)
    rgba = np.full((36, 64, 4), 40, np.uint8)
    pixels = rasterize(TRIANGLE, 64, 36)
    changed = ~grown(~pixels)
    shown = []
    for _ in range(2):
        rgba[..., 3] = np.where(changed, rng.integers(0, 256, changed.shape), 200)
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=form)
        shown.append(show(masked(frame, (TRIANGLE,))))
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("form", ["yuva420p", "yuva444p10le", "gbrap", "rgba", "argb", "bgra", "abgr"])
@pytest.mark.parametrize("hidden_alpha", [0, 200])
def test_mask_keeps_frames_whose_alpha_is_unused(form: str, hidden_alpha: int) -> None:
    """Some cameras leave the alpha of all pixels 0; what a masked pixel has says nothing about them."""
    pixels = rasterize(TRIANGLE, 64, 36)
    rgba = np.full((36, 64, 4), (40, 200, 90, 0), np.uint8)
    rgba[~grown(~pixels), 3] = hidden_alpha
    shown = show(masked(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=form), (TRIANGLE,))).astype(int)
    assert abs(shown[~grown(pixels)] - [40, 200, 90]).max() <= 4
    assert abs(shown[~grown(~pixels)] - 128).max() <= 3


@settings(max_examples=examples(20))
@given(mask=masks, seed=st.integers(0, 2**32 - 1), size=st.sampled_from([(64, 36), (37, 65), (120, 80)]))
def test_masked_pixels_change_no_byte_of_model_input(mask: Mask, seed: int, size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(seed)
    one = av.VideoFrame(width, height, "yuv420p")
    two = av.VideoFrame(width, height, "yuv420p")
    pixels = np.logical_or.reduce([rasterize(polygon, width, height) for polygon in mask])
    for plane, other in zip(one.planes, two.planes, strict=True):
        values = rng.integers(16, 236, plane.buffer_size, np.uint8).reshape(-1, plane.line_size)
        differing = rng.integers(16, 236, plane.buffer_size, np.uint8).reshape(-1, plane.line_size)
        step = 1 if plane.width == width else 2
        hidden = np.zeros(values.shape, np.bool_)
        padded = np.pad(pixels, ((0, -height % step), (0, -width % step)), mode="edge")
        blocks = padded.reshape(padded.shape[0] // step, step, -1, step).any(axis=(1, 3))
        hidden[: plane.height, : plane.width] = blocks
        plane.update(values.tobytes())
        other.update(np.where(hidden, differing, values).tobytes())
    one, two = masked(one, mask), masked(two, mask)
    for convert in CONVERTERS:
        np.testing.assert_array_equal(convert(one), convert(two))


@pytest.mark.parametrize(("degrees", "flip"), list(itertools.product([0, 90, 180, 270], [False, True])))
def test_mask_is_placed_on_the_picture_as_shown(tmp_path: Path, degrees: int, flip: bool) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.set_display_rotation(degrees, hflip=flip)
        out.mux(stream.encode(drawn(160, 96)))
        out.mux(stream.encode(None))
    with av.open(str(path)) as opened:
        video_frame = next(opened.decode(video=0))
    plain = show(video_frame).astype(int)
    hidden = masked(video_frame, (((0, 0), (0.5, 0), (0.5, 0.25), (0, 0.25)),))
    assert orientation_of(hidden) == orientation_of(video_frame)
    shown = show(hidden).astype(int)
    height, width = shown.shape[:2]
    assert abs(shown[: height // 4 - 4, : width // 2 - 4] - 130).max() <= 3
    np.testing.assert_array_equal(shown[height // 4 + 6 :], plain[height // 4 + 6 :])
    np.testing.assert_array_equal(shown[:, width // 2 + 6 :], plain[:, width // 2 + 6 :])


def test_decoder_does_not_see_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast", "g": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(10):
            out.mux(stream.encode(drawn(160, 96, number / 10)))
        out.mux(stream.encode(None))

    def decoded(*, mask: bool) -> np.ndarray[Any, Any]:
        with av.open(str(path)) as opened:
            for video_frame in opened.decode(video=0):
                if mask and video_frame.pts is not None and video_frame.time < 0.85:
                    masked(video_frame, (TRIANGLE,))
        return show(video_frame)

    np.testing.assert_array_equal(decoded(mask=True), decoded(mask=False))


def test_unknown_pixel_format_is_refused() -> None:
    video_frame = drawn(64, 36).reformat(format="y210le")
    with pytest.raises(UnmaskableError, match="y210le"):
        FrameMask((TRIANGLE,)).prepare(replace(made_frame(0.0), video_frame=video_frame))


def test_changed_mask_forgets_earlier_frames() -> None:
    ring = FrameRing(seconds=1, frames=5)
    ring.push(replace(made_frame(0.0), video_frame=drawn(64, 36)))
    ring.set_mask((TRIANGLE,))
    assert ring.newest() is None
    ring.push(replace(made_frame(0.1), video_frame=drawn(64, 36)))
    newest = ring.newest()
    assert newest is not None
    assert abs(show(newest.video_frame)[10, 16].astype(int) - 130).max() <= 3
