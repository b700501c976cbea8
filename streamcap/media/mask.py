"""Masks: the parts of a stream's image that nobody may see, as polygons. `FrameMask` applies them."""

from __future__ import annotations

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
