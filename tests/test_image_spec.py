"""The geometry of fitting an image, against `transformers`' own and against what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.errors import InputError
from streamcap.image_spec import Fit, ImageSpec

SIDES = st.integers(1, 5000)


@pytest.mark.slow  # loads torch
@given(SIDES, SIDES)
def test_crop_matches_clip_processor(width: int, height: int) -> None:
    import numpy as np
    from transformers.image_transforms import get_resize_output_image_size
    from transformers.image_utils import ChannelDimension

    empty = np.broadcast_to(np.uint8(0), (height, width, 3))
    down, across = get_resize_output_image_size(
        empty, size=224, default_to_square=False, input_data_format=ChannelDimension.LAST
    )
    placed = ImageSpec(224, 224).place(width, height)
    assert (placed.scaled_width, placed.scaled_height) == (across, down)


@given(SIDES, SIDES, st.integers(1, 400), st.integers(1, 400), st.sampled_from(["crop", "squash", "pad"]))
def test_placement_invariants(width: int, height: int, across: int, down: int, fit: Fit) -> None:
    spec = ImageSpec(across, down, fit)
    placed = spec.place(width, height)
    if fit == "crop":
        assert placed.scaled_width >= across and placed.scaled_height >= down
        assert placed.scaled_width == across or placed.scaled_height == down
        assert -(placed.scaled_width - across) <= placed.left <= 0
        assert -(placed.scaled_height - down) <= placed.top <= 0
    elif fit == "pad":
        assert 1 <= placed.scaled_width <= across and 1 <= placed.scaled_height <= down
        assert placed.scaled_width == across or placed.scaled_height == down
        assert 0 <= placed.left <= across - placed.scaled_width


def test_json_round_trip() -> None:
    spec = ImageSpec(160, 96, "pad", "area", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert ImageSpec.from_json(spec.to_json()) == spec
    assert ImageSpec(10, 10, mean=(0.0, 0.5, 1.0)).fill == (0, 128, 255)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10}, "field 'height' is missing"),
        ({"width": 0, "height": 5}, "at least 1"),
        ({"width": 5, "height": 5, "fit": "stretch"}, "crop, squash, pad"),
        ({"width": 5, "height": 5, "interpolation": "cubic"}, "bicubic, bilinear, area"),
        ({"width": 5, "height": 5, "std": [1, 1, 0]}, "std above 0"),
        ({"width": 5, "height": 5, "mean": 3}, "not iterable"),
        ({"width": 5, "height": 5, "depth": 3}, "unknown field 'depth'"),
    ],
)
def test_invalid_spec(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSpec.from_json(fields)


def test_empty_image_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        ImageSpec(5, 5).place(0, 3)
