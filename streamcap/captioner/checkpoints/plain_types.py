"""Types of plain data that trainers save beside the weights: options, paths, numpy's numbers. None runs code."""

from __future__ import annotations

import argparse
import collections
import functools
import pathlib
from typing import Any

import numpy as np

_SCALARS = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)


@functools.cache
def plain_types() -> list[Any]:
    """Types for `torch.serialization.safe_globals`, with the names that other versions and systems give them."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(1).__reduce__()[0]
    types: list[Any] = [argparse.Namespace, collections.defaultdict, dict, list, np.ndarray, np.dtype]
    types += [type(np.dtype(kind)) for kind in _SCALARS]
    for package in ("numpy.core", "numpy._core"):
        types += [(scalar, f"{package}.multiarray.scalar"), (array, f"{package}.multiarray._reconstruct")]
    # A path of any system is only text here.
    for module in ("pathlib", "pathlib._local"):
        types += [(pathlib.PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath")]
        types += [(pathlib.PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    return types
