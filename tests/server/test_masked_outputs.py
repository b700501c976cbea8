"""A masked pixel changes no byte of the model's input, the video preview or the snapshot."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.frame_mask import rasterize
from streamcap.media.mask import Mask
from streamcap.media.ring import FrameRing
from streamcap.server.snapshots import _encode
from streamcap.server.webrtc.preview import Encoder
from tests.examples import examples
from tests.media.fakes import made_frame

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 96, 64
CONVERT = Converter(ImageSpec(32, 32))
coordinates = st.floats(0, 1)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=6).map(tuple)
masks = st.lists(polygons, min_size=1, max_size=3).map(tuple)


def outputs(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], mask: Mask | None) -> list[bytes]:
    ring = FrameRing(seconds=1, frames=1, mask=mask)
    ring.push(replace(made_frame(0.0), video_frame=av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    (frame,) = ring.window(1, 1)
    packet = Encoder().encode(frame.video_frame, 0, keyframe=True)
    assert packet is not None
    jpeg = _encode(SimpleNamespace(name="door", newest_frame=ring.newest), None).jpeg  # type: ignore[arg-type]
    return [CONVERT([frame]).tobytes(), bytes(packet), jpeg]


@settings(max_examples=examples(25))
@given(mask=masks, seed=st.integers(0, 2**32 - 1))
def test_masked_pixels_change_no_byte_of_any_output(mask: Mask, seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
    hidden = np.logical_or.reduce([rasterize(polygon, WIDTH, HEIGHT) for polygon in mask])
    second = np.where(hidden[..., None], second, first)
    assert outputs(first, mask) == outputs(second, mask)
    if hidden.mean() > 0.2:
        assert all(one != two for one, two in zip(outputs(first, None), outputs(second, None), strict=True))
