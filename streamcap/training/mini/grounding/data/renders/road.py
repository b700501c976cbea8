"""Vehicles on roads and parking lots, from straight above."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from streamcap.training.mini.grounding.data.renders.canvas import (
    SIZE,
    VISIBLE,
    Color,
    View,
    captions_of,
    finish,
    paste,
    surface,
    tone,
)

_PAINT: Final[dict[str, Color]] = {
    "white": (232, 233, 235), "silver": (176, 180, 184), "gray": (112, 116, 120), "black": (28, 29, 32),
    "red": (170, 28, 30), "blue": (38, 70, 140), "green": (42, 92, 62), "yellow": (214, 176, 40),
}  # fmt: skip


def road(rng: np.random.Generator, side: int) -> View:
    """Up to four cars, trucks and buses on a road or a parking lot."""
    width, height = SIZE
    canvas = surface(rng, (rng.uniform(55, 165),) * 3, speckle=rng.uniform(0, 14))
    draw = ImageDraw.Draw(canvas)
    heading = rng.choice((0.0, 90.0)) + rng.normal(0, 14)
    _markings(rng, canvas, draw, heading)
    things: list[tuple[str, str]] = []
    unknown: set[str] = set()
    for _ in range(int(rng.choice((0, 1, 2, 3, 4), p=(0.22, 0.34, 0.22, 0.14, 0.08)))):
        name = str(rng.choice(("car", "truck", "bus"), p=(0.8, 0.13, 0.07)))
        paint = str(rng.choice(list(_PAINT)))
        length = height * rng.uniform(0.22, 0.62) * (1 if name == "car" else 1.4)
        tile = _vehicle(rng, name, _PAINT[paint], length).rotate(
            -heading + rng.choice((0, 180)) + rng.normal(0, 7), Image.Resampling.BICUBIC, expand=True
        )
        seen = paste(rng, canvas, tile, (rng.uniform(-0.05, 1.05) * width, rng.uniform(-0.05, 1.05) * height))
        if seen >= VISIBLE:
            things.append((name, paint))
        elif seen > 0.03:
            unknown.add(name)
    place = str(rng.choice(("on a road", "on the road", "in a parking lot", "on a street")))
    empty = ("an empty road", "a road", "a gray road", "an empty street")
    return finish(
        rng,
        canvas,
        side,
        objects=Counter(name for name, _ in things),
        unknown=unknown,
        scenes=("street",),
        captions=captions_of(things, place) if things else empty,
    )


def _markings(rng: np.random.Generator, canvas: Image.Image, draw: ImageDraw.ImageDraw, heading: float) -> None:
    """Lines of a road or a parking lot, and now and then grass or a pavement beside it."""
    width, height = SIZE
    if rng.random() < 0.3:
        verge = surface(rng, (70, 96, 48) if rng.random() < 0.6 else (150, 146, 140), speckle=12)
        edge = int(width * rng.uniform(0.08, 0.3))
        canvas.paste(verge.crop((0, 0, edge, height)), (0 if rng.random() < 0.5 else width - edge, 0))
    along = math.radians(heading)
    for _ in range(int(rng.integers(0, 5))):
        x, y, reach = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(15, 260)
        ends = [x, y, x + reach * math.sin(along), y + reach * math.cos(along)]
        draw.line(ends, fill=(225, 222, 210) if rng.random() < 0.8 else (210, 170, 60), width=int(rng.integers(1, 6)))
    for _ in range(int(rng.integers(0, 25))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        draw.ellipse([x, y, x + 1.5, y + 1.5], fill=(200, 200, 200))


def _vehicle(rng: np.random.Generator, name: str, paint: Color, length: float) -> Image.Image:
    """A vehicle from above, its front at the top, on a transparent tile; drawn twice as large, for smooth edges."""
    long, wide = (
        int(2 * length),
        int(2 * length * {"car": 0.46, "truck": 0.36, "bus": 0.28}[name] * rng.uniform(0.9, 1.1)),
    )
    tile = Image.new("RGBA", (wide + 12, long + 8))
    draw = ImageDraw.Draw(tile)
    left, top, right, bottom = 6, 4, 6 + wide, 4 + long
    dark = tuple(int(c * 0.12 + 14) for c in paint)
    shade = tuple(int(c * 0.82) for c in paint)
    draw.rounded_rectangle([left, top, right, bottom], radius=wide // 4 if name == "car" else wide // 10, fill=paint)

    def across(start: float, end: float, inset: float, color: tuple[int, ...]) -> None:
        slant = 0.06 * wide
        a, b, w = top + start * long, top + end * long, inset * wide
        draw.polygon([(left + w, a), (right - w, a), (right - w - slant, b), (left + w + slant, b)], fill=color)

    if name == "car":
        draw.rectangle([left + 0.06 * wide, top + 0.36 * long, right - 0.06 * wide, top + 0.8 * long], fill=dark)
        across(0.27, 0.4, 0.08, dark)
        draw.rounded_rectangle(
            [left + 0.15 * wide, top + 0.4 * long, right - 0.15 * wide, top + 0.76 * long], wide // 9, fill=paint
        )
        across(0.9, 0.76, 0.1, dark)
        if rng.random() < 0.25:
            draw.rectangle([left + 0.28 * wide, top + 0.44 * long, right - 0.28 * wide, top + 0.54 * long], fill=dark)
        for x in (left - 4, right - 1):
            draw.ellipse([x, top + 0.31 * long, x + 5, top + 0.36 * long], fill=shade)
    elif name == "truck":
        across(0.06, 0.13, 0.08, dark)
        load = tone(rng)
        draw.rectangle([left, top + 0.24 * long, right, bottom], fill=load, outline=tuple(c // 2 for c in load))
    else:
        across(0.01, 0.05, 0.06, dark)
        for start in (0.2, 0.5, 0.75):
            draw.rectangle(
                [left + 0.3 * wide, top + start * long, right - 0.3 * wide, top + (start + 0.1) * long], fill=shade
            )
    for lamp in (left + 0.08 * wide, right - 0.24 * wide):
        draw.ellipse([lamp, top + 1, lamp + 0.16 * wide, top + 0.05 * long], fill=(240, 240, 215))
        draw.rectangle([lamp, bottom - 0.03 * long, lamp + 0.16 * wide, bottom], fill=(150, 20, 20))
    return tile.resize((max(1, tile.width // 2), max(1, tile.height // 2)), Image.Resampling.BOX)
