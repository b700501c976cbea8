"""Bottles, cups and bowls in a row, from the side."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from streamcap.training.mini.grounding.data.renders.canvas import (
    SIZE,
    Color,
    View,
    captions_of,
    finish,
    paste,
    surface,
    tone,
)

_GLASS: Final[dict[str, Color]] = {
    "clear": (196, 208, 212), "blue": (120, 160, 190), "green": (52, 104, 60), "brown": (92, 56, 28),
    "white": (228, 228, 226), "red": (160, 40, 40),
}  # fmt: skip


def shelf(rng: np.random.Generator, side: int) -> View:
    """Up to five bottles, cups or bowls in a row."""
    width, height = SIZE
    wall = rng.uniform(60, 235) + rng.normal(0, 9, 3)
    canvas = surface(rng, tuple(wall), speckle=rng.uniform(0, 4))
    floor = height * rng.uniform(0.5, 0.9)
    below = surface(rng, tuple(np.clip(wall + rng.uniform(-90, 70), 25, 245)), speckle=rng.uniform(0, 4))
    canvas.paste(below.crop((0, int(floor), width, height)), (0, int(floor)))
    things: list[tuple[str, str]] = []
    kind = str(rng.choice(("bottle", "cup", "bowl", ""), p=(0.62, 0.16, 0.08, 0.14)))
    paint = str(rng.choice(list(_GLASS)))
    tall = height * rng.uniform(0.25, 0.75)
    number = int(rng.integers(1, 6)) if kind else 0
    start, gap = rng.uniform(0.06, 0.3), rng.uniform(0.13, 0.3)
    for place in range(number):
        x = width * (start + gap * place) + rng.normal(0, 4)
        if x > width * 0.95:
            break
        if rng.random() < 0.3:
            paint = str(rng.choice(list(_GLASS)))
        tile = _vessel(rng, kind, _GLASS[paint], tall * rng.uniform(0.9, 1.1))
        bottom = floor + (height - floor) * rng.uniform(0.1, 0.7)
        paste(rng, canvas, tile, (x, bottom - tile.height / 2), shadow=rng.random() < 0.5)
        things.append((kind, paint))
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.35 else 0):
        box = Image.new("RGBA", (int(rng.integers(18, 70)), int(rng.integers(18, 70))), tone(rng))
        paste(rng, canvas, box, (rng.uniform(0, width), floor))
    where = str(
        rng.choice(("in front of a wall", "on a counter", "on a shelf", "in a row" if number > 1 else "on a ledge"))
    )
    empty = ("a white wall", "a wall", "an empty room", "a view of a wall")
    return finish(
        rng,
        canvas,
        side,
        objects=Counter(name for name, _ in things),
        unknown=(),
        scenes=("room",),
        captions=captions_of(things, where) if things else empty,
    )


def _vessel(rng: np.random.Generator, name: str, paint: Color, tall: float) -> Image.Image:
    """A bottle, cup or bowl from the side on a transparent tile."""
    high = int(2 * tall * {"bottle": 1.0, "cup": 0.45, "bowl": 0.3}[name])
    wide = int(
        high * {"bottle": rng.uniform(0.24, 0.38), "cup": rng.uniform(0.7, 1.0), "bowl": rng.uniform(1.6, 2.2)}[name]
    )
    tile = Image.new("RGBA", (int(wide * 1.5), high))
    draw = ImageDraw.Draw(tile)
    alpha = int(rng.uniform(120, 255))
    fill, light = (*paint, alpha), (*(min(255, c + 45) for c in paint), alpha)
    left, right = 0, wide
    if name == "bottle":
        neck, shoulder, cap = wide * rng.uniform(0.16, 0.26), high * rng.uniform(0.2, 0.42), high * 0.08
        middle = wide / 2
        outline = [(middle - neck, cap), (middle + neck, cap), (middle + neck, shoulder * 0.6), (right - 1, shoulder),
                   (right - 1, high - 4), (right - 6, high - 1), (6, high - 1), (0, high - 4), (0, shoulder),
                   (middle - neck, shoulder * 0.6)]  # fmt: skip
        draw.polygon(outline, fill=fill)
        draw.rectangle([middle - neck - 1, 0, middle + neck + 1, cap], fill=(*tone(rng), 255))
        if rng.random() < 0.5:
            a = high * rng.uniform(0.45, 0.6)
            draw.rectangle([0, a, right - 1, a + high * rng.uniform(0.1, 0.28)], fill=(*tone(rng), 255))
        elif rng.random() < 0.6:
            a = high * rng.uniform(0.35, 0.8)
            draw.rectangle([1, a, right - 2, high - 4], fill=(*(int(c * 0.85) for c in paint), alpha))
    elif name == "cup":
        draw.rounded_rectangle([left, 0, right, high - 1], wide // 8, fill=fill)
        draw.ellipse([left, 0, right, high * 0.2], fill=light)
        draw.arc([right - wide * 0.12, high * 0.25, right + wide * 0.32, high * 0.75], -90, 90, fill=fill, width=6)
    else:
        draw.pieslice([left, -high, right, high - 1], 0, 180, fill=fill)
        draw.ellipse([left, -high * 0.1, right, high * 0.25], fill=light)
    stripe = wide * rng.uniform(0.15, 0.3)
    draw.line([stripe, high * 0.42, stripe, high * 0.92], fill=light, width=max(1, wide // 14))
    return tile.resize((max(1, tile.width // 2), max(1, tile.height // 2)), Image.Resampling.BOX)
