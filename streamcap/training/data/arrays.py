"""Arrays on disk: written atomically in chunks of rows, read through memory maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamcap.atomic import replacing
from streamcap.errors import StreamcapError


def write_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]) -> None:
    """Write `chunks`, consecutive rows, as one `.npy` file of `shape`. After an error, `path` is unchanged.

    Ordinary writes, since writing to a memory map on a full disk kills the process. Raises StreamcapError if the write
    fails, ValueError if the chunks do not add up to `shape`.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    rows = 0
    try:
        with replacing(path) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for chunk in chunks:
                if chunk.shape[1:] != shape[1:]:
                    raise ValueError(f"rows of shape {chunk.shape[1:]} for an array of {shape}")
                stream.write(np.ascontiguousarray(chunk, dtype).data)
                rows += len(chunk)
            if rows != shape[0]:
                raise ValueError(f"{rows} rows for an array of {shape}")
    except OSError as error:
        raise StreamcapError(
            f"{path}: cannot be written ({error.strerror or error}); nothing was overwritten"
        ) from None


def read_array(path: Path) -> npt.NDArray[Any]:
    """Open a `.npy` file as a read-only memory map."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return array


class JoinedArrays:
    """Arrays of rows of one shape, one behind the other, read by row numbers."""

    def __init__(self, *arrays: npt.NDArray[Any]) -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Rows (R,) of all arrays, as one array (R, ...)."""
        first = self._arrays[0]
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for array, start in zip(self._arrays, self._starts, strict=False):
            inside = (rows >= start) & (rows < start + len(array))
            out[inside] = array[rows[inside] - start]
        return out
