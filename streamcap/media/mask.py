"""Masks: the parts of a stream's image that nobody may see, as polygons."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamcap.errors import InputError

Point = tuple[float, float]
"""x, y, each 0 to 1 of the image as it is shown, after rotation: (0, 0) is its upper left corner."""
Polygon = tuple[Point, ...]
"""At least three points. It closes itself; where it crosses itself, everything it goes round is masked."""
Mask = tuple[Polygon, ...]


def parse_polygon(text: str) -> Polygon:
    """The points of `x,y x,y x,y`; their number and range are checked by `StreamSettings`. Raises InputError."""
    try:
        return tuple((float(x), float(y)) for x, y in (point.split(",") for point in text.split()))
    except ValueError:
        raise InputError(f"--mask: {text[:80]!r}: write a polygon as X,Y X,Y X,Y, each 0 to 1") from None


def rasterize(polygon: Polygon, width: int, height: int) -> npt.NDArray[np.bool_]:
    """(height, width): the pixels of which the polygon covers any part."""
    # Differences along each row: of the winding number at the pixels' centers, and of the number of edges in a pixel.
    winding = np.zeros((height, width + 1), np.int32)
    edges = np.zeros((height, width + 1), np.int32)
    points = [(x * width, y * height) for x, y in polygon]
    for start, end in zip(points, (*points[1:], points[0]), strict=True):
        (x0, y0), (x1, y1) = upper, _ = sorted((start, end), key=lambda point: point[1])
        dx, dy = x1 - x0, y1 - y0
        # The rows whose center line the edge crosses: at or below its upper end, above its lower one.
        rows = np.arange(math.ceil(y0 - 0.5), math.ceil(y1 - 0.5))
        # Divided before it is multiplied: dx / dy overflows where dy is subnormal. Without rows dy may be 0.
        crossings = x0 + (rows + 0.5 - y0) / (dy or 1.0) * dx
        winding[rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.intp)] += 1 if upper is start else -1
        # The pixels that it passes through.
        rows = np.arange(min(height - 1, int(y0)), min(height - 1, int(y1)) + 1)
        entry = x0 + (np.maximum(rows, y0) - y0) / dy * dx if dy > 0 else np.full(rows.size, x0)
        leave = x0 + (np.minimum(rows + 1, y1) - y0) / dy * dx if dy > 0 else np.full(rows.size, x1)
        first, last = (
            np.clip(side, 0, width - 1).astype(np.intp) for side in (np.minimum(entry, leave), np.maximum(entry, leave))
        )
        edges[rows, first] += 1
        edges[rows, last + 1] -= 1
    # A pixel that no edge passes through is inside wholly or not at all.
    masked: npt.NDArray[np.bool_] = ((winding.cumsum(axis=1) != 0) | (edges.cumsum(axis=1) > 0))[:, :width]
    return masked
