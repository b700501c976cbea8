"""Arrays on disk, written row by row, whole or not at all, and read through memory maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamcap.atomic import replacing
from streamcap.errors import StreamcapError


def write_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], parts: Iterable[npt.NDArray[Any]]) -> None:
    """`parts`, stretches of rows one after the other, as one `.npy` file of `shape`.

    Through ordinary writes: a memory map on a full disk would end the process instead of raising. Whatever ends the
    writing early leaves `path` as it was. Raises StreamcapError where the disk does not take it, ValueError where the
    parts are not as many rows as `shape` says.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    rows = 0
    try:
        with replacing(path) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for some in parts:
                if some.shape[1:] != shape[1:]:
                    raise ValueError(f"rows of shape {some.shape[1:]} for an array of {shape}")
                stream.write(np.ascontiguousarray(some, dtype).data)
                rows += len(some)
            if rows != shape[0]:
                raise ValueError(f"{rows} rows for an array of {shape}")
    except OSError as error:
        raise StreamcapError(
            f"{path}: cannot be written ({error.strerror or error}); nothing was overwritten"
        ) from None


def read_array(path: Path) -> npt.NDArray[Any]:
    """Memory-mapped, read-only."""
    found: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return found
