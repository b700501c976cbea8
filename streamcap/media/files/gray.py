"""Gray of more than 8 bits as the 8 bits that it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def scale_gray(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale numbers to gray: from 0 to 1, 255 or 65535, whichever fits first, else from the minimum to the maximum.

    NaN and infinity are black.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    is_int = values.dtype.kind in "iu"
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top and not (is_int and top == 1.0)), None)
    if low >= 0 and top is not None:
        low, high = 0.0, top
    scaled = (np.where(finite, values, low) - low) * (255 / (high - low if high > low else 1.0))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def scale_sensor_gray(values: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Scale 16-bit words of a sensor, which fill 10, 12, 14 or 16 bits of them, from the bottom."""
    bits = max(10, int(values.max(initial=0)).bit_length())
    return (values >> (bits + bits % 2 - 8)).astype(np.uint8)
