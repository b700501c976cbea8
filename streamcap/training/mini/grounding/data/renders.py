"""Rendered views of fixed cameras that no photograph of the pool shows: vehicles from above, bottles and cups in a row.

Shapes, colors, light and sizes are drawn at random, wider than cameras give them (domain randomization, Tobin et al.
2017), so that what is learned does not hang on how they are drawn. Some views are empty: an empty road is no car.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from streamcap.captioner.grounding.short_sentence import article
from streamcap.training.data.arrays import JoinedArrays
from streamcap.training.mini.grounding.data.pseudo_captions import counted
from streamcap.training.mini.grounding.data.tags import CLASSES, TAGS
from streamcap.training.mini.grounding.trainer import ImageSet

SIZE: Final = (312, 176)
"""Width and height that a view is drawn at, before it is squashed as cameras' frames are."""
Color = tuple[int, int, int]
_VISIBLE: Final = 0.35
"""Share of a thing inside the view from which on it is there; of less nothing is said."""

_SCENE_WEIGHT: Final = 0.3
"""Of the scenes that a view is not of."""

_PAINT: Final[dict[str, Color]] = {
    "white": (232, 233, 235), "silver": (176, 180, 184), "gray": (112, 116, 120), "black": (28, 29, 32),
    "red": (170, 28, 30), "blue": (38, 70, 140), "green": (42, 92, 62), "yellow": (214, 176, 40),
}  # fmt: skip
_GLASS: Final[dict[str, Color]] = {
    "clear": (196, 208, 212), "blue": (120, 160, 190), "green": (52, 104, 60), "brown": (92, 56, 28),
    "white": (228, 228, 226), "red": (160, 40, 40),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """One view and what it shows."""

    pixels: npt.NDArray[np.uint8]
    """(side, side, 3)."""
    objects: Counter[str]
    """Classes that are there, with their number."""
    unknown: frozenset[str]
    """Classes of which too little is in the view to say that they are there or not."""
    scenes: tuple[str, ...]
    captions: tuple[str, ...]


def render(count: int, side: int, seed: int) -> list[View]:
    """`count` views of side x side pixels. The same seed renders the same."""
    rng = np.random.default_rng(seed)
    return [(_road if rng.random() < 0.55 else _shelf)(rng, side) for _ in range(count)]


def with_renders(
    images: ImageSet, views: Sequence[View], encode: Callable[[Sequence[str]], list[list[int]]]
) -> ImageSet:
    """The images and, behind them, the views, which have no chance. A third of the views keep their captions: to the
    others the tags are enough. encode: makes tokens of sentences."""
    count = len(views)
    values, weights = np.zeros((count, len(TAGS)), np.float16), np.ones((count, len(TAGS)), np.float16)
    weights[:, 2 * len(CLASSES) :] = _SCENE_WEIGHT
    main = np.full(count, -1, np.int64)
    for row, view in enumerate(views):
        for name, number in view.objects.items():
            values[row, CLASSES.index(name)] = 1
            values[row, CLASSES.index(name) + len(CLASSES)] = number > 1
        for name in view.unknown:
            weights[row, [CLASSES.index(name), CLASSES.index(name) + len(CLASSES)]] = 0
        for name in view.scenes:
            values[row, TAGS.index(name)] = weights[row, TAGS.index(name)] = 1
        if view.objects:
            main[row] = CLASSES.index(view.objects.most_common(1)[0][0])
    tokens = [encode(view.captions) if row % 3 == 0 else [] for row, view in enumerate(views)]
    return ImageSet(
        JoinedArrays(np.asarray(images.pixels), np.stack([view.pixels for view in views])) if count else images.pixels,
        np.concatenate((images.values, values)),
        np.concatenate((images.weights, weights)),
        np.concatenate((images.imagenet, np.zeros((count, images.imagenet.shape[1]), np.float16))),
        images.tokens + tokens,
        np.concatenate((images.captioned, np.zeros(count, np.bool_))),
        np.concatenate((images.main, main)),
        np.concatenate((images.chances, np.zeros(count))),
        count,
    )


def _road(rng: np.random.Generator, side: int) -> View:
    width, height = SIZE
    canvas = _surface(rng, (rng.uniform(55, 165),) * 3, speckle=rng.uniform(0, 14))
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
        seen = _paste(rng, canvas, tile, (rng.uniform(-0.05, 1.05) * width, rng.uniform(-0.05, 1.05) * height))
        if seen >= _VISIBLE:
            things.append((name, paint))
        elif seen > 0.03:
            unknown.add(name)
    place = str(rng.choice(("on a road", "on the road", "in a parking lot", "on a street")))
    empty = ("an empty road", "a road", "a gray road", "an empty street")
    return _view(rng, canvas, side, things, unknown, ("street",), place, empty)


def _shelf(rng: np.random.Generator, side: int) -> View:
    width, height = SIZE
    wall = rng.uniform(60, 235) + rng.normal(0, 9, 3)
    canvas = _surface(rng, tuple(wall), speckle=rng.uniform(0, 4))
    floor = height * rng.uniform(0.5, 0.9)
    below = _surface(rng, tuple(np.clip(wall + rng.uniform(-90, 70), 25, 245)), speckle=rng.uniform(0, 4))
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
        _paste(rng, canvas, tile, (x, bottom - tile.height / 2), shadow=rng.random() < 0.5)
        things.append((kind, paint))
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.35 else 0):
        box = Image.new("RGBA", (int(rng.integers(18, 70)), int(rng.integers(18, 70))), _tone(rng))
        _paste(rng, canvas, box, (rng.uniform(0, width), floor))
    where = str(
        rng.choice(("in front of a wall", "on a counter", "on a shelf", "in a row" if number > 1 else "on a ledge"))
    )
    empty = ("a white wall", "a wall", "an empty room", "a view of a wall")
    return _view(rng, canvas, side, things, set(), ("room",), where, empty)


def _view(
    rng: np.random.Generator,
    canvas: Image.Image,
    side: int,
    things: list[tuple[str, str]],
    unknown: set[str],
    scenes: tuple[str, ...],
    place: str,
    empty: tuple[str, ...],
) -> View:
    counts = Counter(name for name, _ in things)
    if rng.random() < 0.5:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    lit = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32)
    light = rng.uniform(0.6, 1.3) * np.array([1, rng.uniform(0.94, 1.06), rng.uniform(0.88, 1.12)])
    pixels = np.clip(lit * light + rng.normal(0, rng.uniform(0, 5), lit.shape), 0, 255).astype(np.uint8)
    return View(pixels, counts, frozenset(unknown - set(counts)), scenes, _captions(things, counts, place, empty))


def _captions(
    things: list[tuple[str, str]], counts: Counter[str], place: str, empty: tuple[str, ...]
) -> tuple[str, ...]:
    if not things:
        return empty
    named = " and ".join(counted(name, count) for name, count in counts.items())
    colored = " and ".join(
        article(f"{paint} {name}") if count == 1 else f"{counted('x', count)[:-2]}{paint} {counted(name, 2)[4:]}"
        for (name, paint), count in Counter(things).items()
    )
    made = (f"{named} {place}", f"{colored} {place}", named, f"there {'is' if len(things) == 1 else 'are'} {named}")
    return tuple(dict.fromkeys(made))


def _tone(rng: np.random.Generator) -> Color:
    red, green, blue = (int(one) for one in rng.integers(20, 236, 3))
    return red, green, blue


def _surface(rng: np.random.Generator, base: tuple[float, ...], *, speckle: float) -> Image.Image:
    """A surface of about that color: soft stains, a gradient of light, grain."""
    width, height = SIZE
    rows = int(rng.integers(2, 7))
    stains = Image.fromarray(rng.normal(0, rng.uniform(2, 12), (rows, rows * 2)).astype(np.float32))
    soft = np.asarray(stains.resize(SIZE, Image.Resampling.BICUBIC))
    slope = np.linspace(-1, 1, width)[None] * rng.normal(0, 10) + np.linspace(-1, 1, height)[:, None] * rng.normal(
        0, 10
    )
    grain = rng.normal(0, 1, (height, width)) * speckle
    tint = np.array(base) + rng.normal(0, 3, 3)
    return Image.fromarray(np.clip(tint + (soft + slope + grain)[..., None], 0, 255).astype(np.uint8))


def _markings(rng: np.random.Generator, canvas: Image.Image, draw: ImageDraw.ImageDraw, heading: float) -> None:
    """Lines of a road or a parking lot, and now and then grass or a pavement beside it."""
    width, height = SIZE
    if rng.random() < 0.3:
        verge = _surface(rng, (70, 96, 48) if rng.random() < 0.6 else (150, 146, 140), speckle=12)
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
        load = _tone(rng)
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
        draw.rectangle([middle - neck - 1, 0, middle + neck + 1, cap], fill=(*_tone(rng), 255))
        if rng.random() < 0.5:
            a = high * rng.uniform(0.45, 0.6)
            draw.rectangle([0, a, right - 1, a + high * rng.uniform(0.1, 0.28)], fill=(*_tone(rng), 255))
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


def _paste(
    rng: np.random.Generator,
    canvas: Image.Image,
    tile: Image.Image,
    center: tuple[float, float],
    *,
    shadow: bool = True,
) -> float:
    """Put `tile` there; the share of it that is inside the view."""
    x, y = int(center[0] - tile.width / 2), int(center[1] - tile.height / 2)
    if shadow:
        soft = tile.getchannel("A").point(lambda a: int(a * 0.45)).filter(ImageFilter.GaussianBlur(2))
        canvas.paste((12, 12, 16), (x + int(rng.integers(-5, 6)), y + int(rng.integers(0, 6))), soft)
    canvas.paste(tile, (x, y), tile)
    inside = max(0, min(x + tile.width, SIZE[0]) - max(x, 0)) * max(0, min(y + tile.height, SIZE[1]) - max(y, 0))
    return inside / (tile.width * tile.height)
