"""Small vector drawing with outlines, shading and smooth edges: shapes in figure units, y up, to an RGBA sprite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

FigurePoint = tuple[float, float]
"""x, y in figure units, y up."""
Color = tuple[int, int, int]

_OVERSAMPLING = 3
_MARGIN_PX = 3

PAINT: dict[str, Color] = {
    "red": (214, 32, 38),
    "blue": (30, 84, 222),
    "yellow": (250, 212, 24),
    "green": (22, 158, 62),
    "purple": (136, 44, 176),
    "white": (246, 246, 246),
    "black": (34, 34, 38),
    "brown": (134, 80, 36),
    "orange": (240, 136, 30),
    "grey": (138, 142, 150),
}


def shade(color: Color, factor: float) -> Color:
    """`color` made darker (factor below 1) or lighter."""
    red, green, blue = (max(0, min(255, round(c * factor))) for c in color)
    return red, green, blue


@dataclass
class Canvas:
    """Collects shapes; `sprite` renders them over their common dark outline."""

    outline: Color = (24, 24, 30)
    _polygons: list[tuple[list[FigurePoint], Color, bool]] = field(default_factory=list)

    def polygon(self, points: list[FigurePoint], color: Color, *, outlined: bool = True) -> None:
        """A filled polygon. `outlined=False` inside another shape."""
        self._polygons.append((points, color, outlined))

    def ellipse(
        self, center: FigurePoint, rx: float, ry: float, color: Color, *, angle: float = 0.0, outlined: bool = True
    ) -> None:
        """A filled ellipse, turned by `angle` radians counter-clockwise."""
        cos, sin = math.cos(angle), math.sin(angle)
        points = []
        for step in range(20):
            a = step * math.tau / 20
            x, y = rx * math.cos(a), ry * math.sin(a)
            points.append((center[0] + x * cos - y * sin, center[1] + x * sin + y * cos))
        self.polygon(points, color, outlined=outlined)

    def limb(self, points: list[FigurePoint], width: float, color: Color, *, outlined: bool = True) -> None:
        """A thick line with round joints."""
        half = width / 2
        for (x0, y0), (x1, y1) in pairwise(points):
            base = math.atan2(y1 - y0, x1 - x0)
            capsule = [
                (x + half * math.cos(base + a), y + half * math.sin(base + a))
                for x, y, start in ((x1, y1, -0.5), (x0, y0, 0.5))
                for a in (math.pi * (start + step / 5) for step in range(6))
            ]
            self.polygon(capsule, color, outlined=outlined)

    def sprite(self, px_per_unit: float, *, mirrored: bool = False) -> tuple[Image.Image, FigurePoint]:
        """The RGBA image, and the pixel of the figure's origin in it."""
        xs = [x for points, _, _ in self._polygons for x, _ in points]
        ys = [y for points, _, _ in self._polygons for _, y in points]
        left, right, top = min(xs), max(xs), max(ys)
        width = math.ceil((right - left) * px_per_unit) + 2 * _MARGIN_PX
        height = math.ceil((top - min(ys)) * px_per_unit) + 2 * _MARGIN_PX
        n = _OVERSAMPLING
        scale = px_per_unit * n
        image = Image.new("RGBA", (width * n, height * n), (*self.outline, 0))
        canvas = ImageDraw.Draw(image)
        placed = [
            (
                [((x - left) * scale + _MARGIN_PX * n, (top - y) * scale + _MARGIN_PX * n) for x, y in points],
                c,
                outlined,
            )
            for points, c, outlined in self._polygons
        ]
        thickness = max(2, round(0.022 * scale))
        for points, _, outlined in placed:
            if outlined:
                canvas.line([*points, points[0], points[1]], fill=self.outline, width=thickness)
        for points, color, _ in placed:
            canvas.polygon(points, fill=color)
        small = _lit(image.reduce(n))
        origin = (-left * px_per_unit + _MARGIN_PX, top * px_per_unit + _MARGIN_PX)
        if mirrored:
            return small.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (width - origin[0], origin[1])
        return small, origin


def _lit(image: Image.Image) -> Image.Image:
    """Light from above: brighter at the top, darker underneath."""
    pixels = np.array(image)
    light = np.linspace(282, 205, pixels.shape[0]).astype(np.uint32)[:, None, None]
    pixels[:, :, :3] = np.minimum((pixels[:, :, :3] * light) >> 8, 255)
    return Image.fromarray(pixels)
