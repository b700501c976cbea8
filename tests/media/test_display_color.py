"""Transparency and high dynamic range in the colors of a screen."""

from __future__ import annotations

import numpy as np
import pytest
from av import VideoFrame

from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.display_color import HLG, PQ
from streamcap.media.orientation import show

BT2020 = 9


def _hdr(code: float, transfer: int) -> VideoFrame:
    """A gray frame of a code value from 0 to 1."""
    frame = VideoFrame.from_ndarray(np.full((32, 32, 3), round(255 * code), np.uint8), format="rgb24")
    frame.color_trc, frame.color_primaries = transfer, BT2020
    return frame


# Code values of ITU-R BT.2408, table 1: an 18 % gray card is at 38 %, diffuse white at 58 % (PQ) and 75 % (HLG).
@pytest.mark.parametrize(
    ("transfer", "code", "low", "high"),
    [(PQ, 0.38, 95, 125), (HLG, 0.38, 95, 125), (PQ, 0.58, 238, 252), (HLG, 0.75, 238, 252), (PQ, 0, 0, 0)],
)
def test_hdr_gray_is_as_bright_as_sdr(transfer: int, code: float, low: int, high: int) -> None:
    frame = _hdr(code, transfer)
    assert low <= show(frame).mean() <= high
    assert low <= Converter(ImageSpec(16, 16)).convert(frame).mean() <= high


def test_hdr_highlights_keep_their_order() -> None:
    levels = [float(show(_hdr(code / 100, PQ)).mean()) for code in range(0, 80, 2)]
    assert levels == sorted(levels)
    assert levels[-1] == 255


@pytest.mark.parametrize("size", [(64, 48), (16, 16)], ids=["whole", "scaled"])
def test_transparency_is_white(size: tuple[int, int]) -> None:
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[24:] = 200, 30, 30, 255
    frame = VideoFrame.from_ndarray(rgba, format="rgba")
    for shown in (show(frame), Converter(ImageSpec(*size, fit="squash")).convert(frame)):
        rows = len(shown)
        assert (shown[: rows // 2 - 2] == 255).all()
        assert abs(shown[rows // 2 + 2 :].astype(int) - [200, 30, 30]).max() <= 2


def test_pixels_without_any_opacity_are_shown() -> None:
    rgba = np.full((8, 8, 4), (10, 200, 30, 0), np.uint8)
    assert (show(VideoFrame.from_ndarray(rgba, format="rgba")) == [10, 200, 30]).all()
