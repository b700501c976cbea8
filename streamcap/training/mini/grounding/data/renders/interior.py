"""People in rooms, as a camera under the ceiling sees them: from above, most of them from behind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from streamcap.captioner.grounding.short_sentence import article
from streamcap.training.mini.grounding.data.pseudo_captions import counted
from streamcap.training.mini.grounding.data.renders.canvas import (
    SIZE,
    VISIBLE,
    Color,
    View,
    finish,
    paste,
    surface,
    tone,
)

_CLOTHES: Final[dict[str, Color]] = {
    "black": (24, 24, 28), "white": (226, 226, 224), "gray": (128, 130, 134), "red": (166, 34, 38),
    "blue": (46, 72, 142), "green": (48, 98, 66), "yellow": (212, 178, 52), "brown": (98, 70, 50),
}  # fmt: skip
_HAIR: Final[dict[str, Color]] = {
    "black": (22, 20, 20), "brown": (70, 46, 30), "blond": (188, 152, 96), "red": (134, 66, 36),
    "gray": (150, 148, 146),
}  # fmt: skip
_SKIN: Final = ((238, 202, 180), (214, 168, 138), (166, 116, 84), (112, 74, 52), (74, 48, 36))
_FLOORS: Final[tuple[Color, ...]] = ((152, 92, 48), (186, 142, 96), (96, 62, 40), (128, 128, 130), (190, 188, 184))


@dataclass(frozen=True, slots=True)
class _Person:
    shirt: str
    hair: str
    long_hair: bool


def interior(rng: np.random.Generator, side: int) -> View:
    """Up to three people in a room, or on a floor that fills the view."""
    width, height = SIZE
    canvas = _room(rng)
    scale = height * rng.uniform(0.45, 1.0)
    seen: list[_Person] = []
    partly = False
    for _ in range(int(rng.choice((0, 1, 2, 3), p=(0.3, 0.5, 0.14, 0.06)))):
        one = _Person(
            str(rng.choice(list(_CLOTHES))), str(rng.choice(list(_HAIR))), long_hair=bool(rng.random() < 0.45)
        )
        tile = _figure(rng, one, scale * rng.uniform(0.9, 1.1))
        tile = tile.rotate(rng.normal(0, 7), Image.Resampling.BICUBIC, expand=True)
        share = paste(rng, canvas, tile, (rng.uniform(-0.02, 1.02) * width, rng.uniform(0.3, 0.95) * height))
        if share >= VISIBLE:
            seen.append(one)
        else:
            partly = partly or share > 0.03
    # A table on one leg and dark frames on a wall may count as these, or not.
    unknown = {"dining table", "tv", *(["person"] if partly else [])}
    objects = Counter({"person": len(seen)} if seen else {})
    return finish(rng, canvas, side, objects=objects, unknown=unknown, scenes=("room",), captions=_captions(rng, seen))


def _captions(rng: np.random.Generator, seen: list[_Person]) -> tuple[str, ...]:
    if not seen:
        return ("an empty room", "a room", "the inside of a room", "a wall and a floor")
    if len(seen) > 1:
        several = counted("person", len(seen))
        return (f"{several} in a room", f"{several} are standing in a room", f"there are {several}", several)
    one = seen[0]
    who = (
        ("woman" if rng.random() < 0.85 else "person") if one.long_hair else ("man" if rng.random() < 0.7 else "person")
    )
    hair = f"a {who} with long {one.hair} hair" if one.long_hair else f"a {who} with {one.hair} hair"
    return (
        f"a {who} in {article(f'{one.shirt} shirt')} is standing in a room",
        f"a {who} is standing in a room",
        f"{hair} stands in a room",
        f"a {who} is walking in a room",
        "a person in a room",
    )


def _room(rng: np.random.Generator) -> Image.Image:
    width, height = SIZE
    base = np.array(_FLOORS[int(rng.integers(len(_FLOORS)))]) * rng.uniform(0.7, 1.25)
    canvas = surface(rng, tuple(base), speckle=rng.uniform(0, 8))
    draw = ImageDraw.Draw(canvas)
    edge = height * rng.uniform(0.2, 0.75) if rng.random() < 0.85 else 0.0
    kind = rng.random()
    if kind < 0.45:
        _planks(rng, draw, base, edge)
    elif kind < 0.65:
        step = rng.uniform(14, 50)
        joint = _shaded(base * rng.uniform(0.7, 0.95))
        for x in np.arange(rng.uniform(0, step), width, step):
            draw.line([x, 0, x, height], fill=joint)
        for y in np.arange(edge, height, step * rng.uniform(0.5, 1)):
            draw.line([0, y, width, y], fill=joint)
    if edge:
        paint = np.clip(rng.uniform(120, 242) + rng.normal(0, 14, 3), 0, 255)
        wall = surface(rng, tuple(paint), speckle=rng.uniform(0, 3))
        canvas.paste(wall.crop((0, 0, width, int(edge))), (0, 0))
        if rng.random() < 0.6:
            board = _shaded(base * rng.uniform(0.5, 1.1))
            draw.line([0, edge, width, edge + rng.normal(0, 3)], fill=board, width=int(rng.integers(1, 6)))
        for _ in range(int(rng.integers(0, 4))):
            x, y = rng.uniform(-0.1, 0.95) * width, rng.uniform(-0.3, 0.6) * edge
            across, down = rng.uniform(10, 90), rng.uniform(14, edge + 10)
            inner = (
                tone(rng) if rng.random() < 0.4 else tuple(int(c) for c in np.clip(paint - rng.uniform(0, 220), 0, 255))
            )
            draw.rectangle([x, y, x + across, min(y + down, edge)], fill=inner, outline=(20, 20, 22), width=2)
    if rng.random() < 0.4:
        _table(rng, draw, edge)
    return canvas


def _shaded(color: npt.NDArray[np.float64]) -> Color:
    red, green, blue = (int(one) for one in np.clip(color, 0, 255))
    return red, green, blue


def _planks(rng: np.random.Generator, draw: ImageDraw.ImageDraw, base: npt.NDArray[np.float64], edge: float) -> None:
    """Boards of a wooden floor, which meet far above the view."""
    width, height = SIZE
    far, x = rng.uniform(-8, 0.2) * height, float(-width)
    middle, level = width * rng.uniform(0.2, 0.8), rng.random() < 0.2
    while x < 2 * width:
        board = rng.uniform(5, 16)
        color = _shaded(base * rng.normal(1, 0.12))
        if level:
            y = edge + (x + width) / 3
            draw.rectangle([0, y, width, y + board / 2], fill=color)
        else:
            near = (edge - far) / (height - far)
            top = [middle + (one - middle) * near for one in (x, x + board)]
            draw.polygon([(top[0], edge), (top[1], edge), (x + board, height), (x, height)], fill=color)
        x += board


def _table(rng: np.random.Generator, draw: ImageDraw.ImageDraw, edge: float) -> None:
    """A round table on one leg."""
    width, height = SIZE
    x, foot, size = (
        rng.uniform(0, width),
        rng.uniform(max(edge, 0.4 * height), height),
        height * rng.uniform(0.12, 0.35),
    )
    top = foot - size * rng.uniform(1.2, 2.2)
    metal, plate = tone(rng), _shaded(rng.uniform(60, 240) + rng.normal(0, 12, 3))
    draw.line([x, top, x, foot], fill=metal, width=max(2, int(size * 0.08)))
    for reach in (-0.35, 0.35):
        draw.line([x, foot - 2, x + reach * size, foot + 0.12 * size], fill=metal, width=max(2, int(size * 0.07)))
    draw.ellipse([x - size / 2, top - size * 0.22, x + size / 2, top + size * 0.22], fill=plate, outline=(40, 40, 40))


def _figure(rng: np.random.Generator, person: _Person, tall: float) -> Image.Image:
    """A person on a transparent tile, drawn twice as large, for smooth edges."""
    high = int(2 * tall)
    wide = int(high * 0.62)
    tile = Image.new("RGBA", (wide, high))
    draw = ImageDraw.Draw(tile)
    middle, half = wide / 2, high * rng.uniform(0.1, 0.15)
    skin, hair = _SKIN[int(rng.integers(len(_SKIN)))], _HAIR[person.hair]
    shirt = _shaded(np.array(_CLOTHES[person.shirt]) * rng.uniform(0.8, 1.2))
    trousers = _shaded(np.array(_CLOTHES[str(rng.choice(list(_CLOTHES)))]) * 0.8)
    head = high * rng.uniform(0.06, 0.085)
    neck, hips = head * 2.0, high * rng.uniform(0.48, 0.66)
    lean = rng.normal(0, 0.03) * high
    # Legs: two of them from the hips to the floor, shorter the more the camera looks down.
    step = high * rng.uniform(0, 0.09)
    for sign in (-1, 1):
        foot = middle + lean + sign * (half * 0.45 + step * rng.uniform(0, 1))
        draw.polygon(
            [(middle + sign * half * 0.95, hips * 0.96), (middle - sign * half * 0.02, hips * 0.96),
             (foot - half * 0.28, high * 0.95), (foot + half * 0.28, high * 0.95)],
            fill=trousers,
        )  # fmt: skip
        draw.ellipse([foot - half * 0.35, high * 0.92, foot + half * 0.35, high * 0.99], fill=tone(rng))
    # Arms, straight or bent before the body.
    sleeve = shirt if rng.random() < 0.65 else skin
    thick = max(3, int(half * rng.uniform(0.34, 0.5)))
    for sign in (-1, 1):
        shoulder = (middle + sign * half * 0.95, neck + half * 0.4)
        elbow = (middle + sign * half * rng.uniform(1.1, 1.7), neck + (hips - neck) * rng.uniform(0.4, 0.62))
        hand = (middle + sign * half * rng.uniform(0.2, 1.8), neck + (hips - neck) * rng.uniform(0.45, 1.1))
        draw.line([shoulder, elbow], fill=shirt, width=thick)
        draw.line([elbow, hand], fill=sleeve, width=int(thick * 0.85))
        draw.ellipse([hand[0] - thick / 2, hand[1] - thick / 2, hand[0] + thick / 2, hand[1] + thick / 2], fill=skin)
    hem = hips * (rng.uniform(1.0, 1.3) if person.long_hair else 1.0)
    draw.polygon(
        [(middle - half * 0.5, neck), (middle + half * 0.5, neck), (middle + half * 1.1, neck + half * 0.5),
         (middle + half * rng.uniform(0.8, 1.2), hem), (middle - half * rng.uniform(0.8, 1.2), hem),
         (middle - half * 1.1, neck + half * 0.5)],
        fill=shirt,
    )  # fmt: skip
    fold = _shaded(np.array(shirt) * 0.8)
    for _ in range(int(rng.integers(0, 5))):
        x, y = middle + rng.uniform(-0.8, 0.8) * half, rng.uniform(neck + half * 0.4, hips)
        draw.line([x, y, x + rng.normal(0, 0.3) * half, y + rng.uniform(0.3, 1.2) * half], fill=fold, width=3)
    draw.rectangle([middle - head * 0.4, head * 1.5, middle + head * 0.4, neck + head * 0.2], fill=skin)
    draw.ellipse([middle - head * 0.85, 0, middle + head * 0.85, head * 2.1], fill=skin)
    if rng.random() < 0.7:  # from behind
        draw.ellipse([middle - head * 0.9, 0, middle + head * 0.9, head * 1.8], fill=hair)
    else:
        draw.pieslice([middle - head * 0.9, 0, middle + head * 0.9, head * 1.9], 180, 360, fill=hair)
    if person.long_hair:
        end = neck + (hips - neck) * rng.uniform(0.15, 0.6)
        draw.polygon(
            [(middle - head * 0.9, head * 0.9), (middle + head * 0.9, head * 0.9), (middle + head * 0.8, end),
             (middle - head * 0.8, end)],
            fill=hair,
        )  # fmt: skip
    return tile.resize((max(1, wide // 2), max(1, high // 2)), Image.Resampling.BOX)
