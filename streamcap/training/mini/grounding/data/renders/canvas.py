"""What the renders share: surfaces, how a thing is put on them, and how a view is finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from streamcap.captioner.grounding.short_sentence import article
from streamcap.training.mini.grounding.data.pseudo_captions import counted

SIZE: Final = (312, 176)
"""Width and height that a view is drawn at, before it is squashed as cameras' frames are."""
Color = tuple[int, int, int]
VISIBLE: Final = 0.35
"""Share of a thing inside the view from which on it is there; of less nothing is said."""


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


def finish(
    rng: np.random.Generator,
    canvas: Image.Image,
    side: int,
    *,
    objects: Counter[str],
    unknown: Collection[str],
    scenes: tuple[str, ...],
    captions: tuple[str, ...],
) -> View:
    """The view as a camera sees it: squashed to side x side pixels, in any light, with noise, now and then blurred."""
    if rng.random() < 0.5:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3)))
    lit = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32)
    light = rng.uniform(0.6, 1.3) * np.array([1, rng.uniform(0.94, 1.06), rng.uniform(0.88, 1.12)])
    pixels = np.clip(lit * light + rng.normal(0, rng.uniform(0, 5), lit.shape), 0, 255).astype(np.uint8)
    return View(pixels, objects, frozenset(unknown) - set(objects), scenes, captions)


def captions_of(things: Sequence[tuple[str, str]], place: str) -> tuple[str, ...]:
    """Captions of `things`, at least one, each a class and its color."""
    counts = Counter(name for name, _ in things)
    named = " and ".join(counted(name, count) for name, count in counts.items())
    colored = " and ".join(
        article(f"{paint} {name}") if count == 1 else f"{counted('x', count)[:-2]}{paint} {counted(name, 2)[4:]}"
        for (name, paint), count in Counter(things).items()
    )
    made = (f"{named} {place}", f"{colored} {place}", named, f"there {'is' if len(things) == 1 else 'are'} {named}")
    return tuple(dict.fromkeys(made))


def tone(rng: np.random.Generator) -> Color:
    """Any color but the darkest and the lightest."""
    red, green, blue = (int(one) for one in rng.integers(20, 236, 3))
    return red, green, blue


def surface(rng: np.random.Generator, base: tuple[float, ...], *, speckle: float) -> Image.Image:
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


def paste(
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
