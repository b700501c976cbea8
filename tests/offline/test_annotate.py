"""A caption under an image is legible and hides nothing of the image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from streamcap.offline.annotate import annotate


@pytest.mark.parametrize("size", [(640, 360), (31, 400), (4000, 100)])
@pytest.mark.parametrize("text", ["", "a dog", "a man in a blue shirt " * 12, "x" * 300])
def test_annotated_image_keeps_image_and_text(size: tuple[int, int], text: str) -> None:
    image = Image.new("RGB", size, (200, 30, 30))
    page = np.asarray(annotate(image, text))
    left = (page.shape[1] - size[0]) // 2
    assert (page[: size[1], left : left + size[0]] == (200, 30, 30)).all()
    ink = (page[size[1] :] > 128).all(-1)
    assert ink.any() == bool(text)
    # No letter is cut off at an edge.
    assert not (ink[:, :2].any() or ink[:, -2:].any() or ink[:2].any() or ink[-2:].any())


def test_longer_text_takes_more_height() -> None:
    image = Image.new("RGB", (320, 200))
    assert annotate(image, "a dog " * 40).height > annotate(image, "a dog").height


def test_non_ascii_letters_are_drawn() -> None:
    from streamcap.offline.annotate import _font

    if _font(20).getname()[0] == "Aileron":
        pytest.skip("only Pillow's default font is installed")
    image = Image.new("RGB", (320, 200))
    assert annotate(image, "äää") != annotate(image, "ööö")
