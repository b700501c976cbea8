"""Writes TIFFs with any kind of samples, which Pillow does not."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

_FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff_bytes(
    values: npt.NDArray[Any], *, white_is_zero: bool = False, planar: bool = False, endian: str = "<"
) -> bytes:
    """An uncompressed TIFF of gray (H, W) or RGB (H, W, 3) with the samples of the array."""
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    stored = values.transpose(2, 0, 1) if planar else values
    content = np.ascontiguousarray(stored).astype(values.dtype.newbyteorder("<" if endian == "<" else ">")).tobytes()
    strips = samples if planar else 1
    photometric = 2 if samples == 3 else 0 if white_is_zero else 1
    size = len(content) // strips
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [8 * values.itemsize] * samples), 259: ("H", [1]),
        262: ("H", [photometric]), 273: ("I", []), 277: ("H", [samples]), 278: ("I", [height]),
        279: ("I", [size] * strips), 284: ("H", [2 if planar else 1]),
        339: ("H", [_FORMATS[values.dtype.kind]] * samples),
    }  # fmt: skip
    long_at = 8 + 2 + 12 * len(tags) + 4
    # Six values of up to four bytes at most, three times.
    content_at = long_at + 72
    tags[273] = ("I", [content_at + index * size for index in range(strips)])
    entries, long = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{endian}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            packed, long = struct.pack(f"{endian}I", long_at + len(long)), long + packed
        entries += struct.pack(f"{endian}HHI", tag, 3 if kind == "H" else 4, len(numbers)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if endian == "<" else b"MM\0*"
    directory = struct.pack(f"{endian}IH", 8, len(tags)) + entries + bytes(4)
    return magic + directory + long.ljust(72, b"\0") + content
