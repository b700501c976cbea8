"""TIFFs whose samples Pillow does not decode as declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamcap.errors import InputError
from streamcap.media.files.image_file import decode_image
from tests.media.files.tiff_writer import tiff_bytes

GRAY = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1))
WORDS = GRAY.astype(np.uint16) * 257


@pytest.mark.parametrize(
    "content",
    [
        tiff_bytes(255 - GRAY, white_is_zero=True),
        tiff_bytes(65535 - WORDS, white_is_zero=True),
        tiff_bytes(1 - GRAY.astype(np.float32) / 255, white_is_zero=True),
        tiff_bytes(WORDS, endian=">"),
        tiff_bytes(WORDS >> 4),
        tiff_bytes(WORDS >> 6),
        tiff_bytes(GRAY.astype(np.uint32) * 16843009),
        tiff_bytes((GRAY.astype(np.int16) - 128).astype(np.int8)),
        tiff_bytes((WORDS.astype(np.int32) - 32768).astype(np.int16)),
    ],
    ids=["white-0", "white-0-16-bit", "white-0-float", "big-endian", "12-in-16", "10-in-16", "uint32", "int8", "int16"],
)
def test_gray_is_shown_as_declared(content: bytes) -> None:
    shown = np.asarray(decode_image(content)).astype(int)
    assert abs(shown - GRAY[..., None]).max() <= 1


RGB = np.dstack([WORDS] * 3)


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (RGB, {"planar": True}, "3 unsigned samples a pixel, 16 bits each, in separate planes, cannot be read"),
        (RGB / np.float32(65535), {}, "a TIFF of 3 floating-point samples a pixel, 32 bits each, cannot be read"),
        (WORDS / 65535, {}, "one floating-point sample a pixel, 64 bits each, cannot be read; save it with 8"),
    ],
    ids=["planes", "float-rgb", "float64"],
)  # fmt: skip
def test_unreadable_samples_are_named(values: npt.NDArray[Any], options: dict[str, bool], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode_image(tiff_bytes(values, **options))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_tiff_cut_short_in_its_directory() -> None:
    with pytest.raises(InputError, match="a TIFF that is damaged or cut short"):
        decode_image(tiff_bytes(GRAY)[:60])
