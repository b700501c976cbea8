"""TIFF samples that Pillow decodes to other values than the file declares, or not at all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin

from streamcap.errors import InputError
from streamcap.media.files.gray import scale_gray, scale_sensor_gray

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _FORMAT = 258, 262, 277, 284, 339
_WHITE_IS_ZERO = 0
_SEPARATE_PLANES = 2
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
# The version of BigTIFF, whose header is longer.
_BIG = 43
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check_tiff(image: Image.Image) -> None:
    """Raises InputError for a TIFF that Pillow would decode to noise."""
    tags = _tags(image)
    bits = _first(tags, _BITS, 1)
    if tags.get(_PLANES) == _SEPARATE_PLANES and _first(tags, _SAMPLES, 1) > 1 and bits != 8:
        raise InputError(f"{_describe(tags)}, in separate planes, cannot be read; save it with 8 bits")


def declared_gray(image: Image.Image) -> Image.Image:
    """A decoded TIFF with the gray that its tags declare, 8 bits; other images as they are."""
    tags = _tags(image)
    bits, sample_format = _first(tags, _BITS, 1), _first(tags, _FORMAT, 1)
    if image.mode == "L" and bits == 8 and sample_format == 2:
        return Image.fromarray(np.asarray(image) ^ 0x80)
    if image.mode.startswith("I;16"):
        gray = scale_sensor_gray(np.asarray(image))
    elif image.mode == "I" and bits == 32 and sample_format == 1:
        gray = scale_gray(np.asarray(image).view(np.uint32))
    elif image.mode in ("F", "I"):
        gray = scale_gray(np.asarray(image))
    else:
        return image
    # Pillow inverts gray of 8 bits and less itself.
    return Image.fromarray(255 - gray if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else gray)


def describe_tiff(source: Path | IO[bytes]) -> str | None:
    """Why Pillow cannot read this file, if it is a TIFF with samples of another kind; else None."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return describe_tiff(file)
    source.seek(0)
    header = source.read(16)
    if header[:4] not in _MAGIC:
        return None
    directory = TiffImagePlugin.ImageFileDirectory_v2(header[: 16 if _BIG in header[2:4] else 8])
    source.seek(directory.next)
    with warnings.catch_warnings():
        # It warns of a directory that is cut short, and keeps what came before.
        warnings.simplefilter("ignore")
        directory.load(source)
    tags = dict(directory)
    if _PHOTOMETRIC not in tags or _BITS not in tags:
        return "a TIFF that is damaged or cut short"
    return f"{_describe(tags)}, cannot be read; save it with 8 bits"


def _tags(image: Image.Image) -> dict[int, Any]:
    return dict(getattr(image, "tag_v2", {}))


def _first(tags: dict[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _describe(tags: dict[int, Any]) -> str:
    samples = _first(tags, _SAMPLES, 1)
    kind = _FORMATS.get(_first(tags, _FORMAT, 1), "unknown")
    count = f"{samples} {kind} samples" if samples > 1 else f"one {kind} sample"
    return f"a TIFF of {count} a pixel, {_first(tags, _BITS, 1)} bits each"
