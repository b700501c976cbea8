"""Draws a scene at a time. Backdrops and sprites are cached, so that a frame costs little."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from streamcap.media.scenes import figures, objects
from streamcap.media.scenes.backdrop import Backdrop, backdrop, horizon_of
from streamcap.media.scenes.canvas import Canvas, FigurePoint
from streamcap.media.scenes.scene import Scene

_PHASES = 24
# Image heights of one figure unit, and the width of a figure in its own units.
_SIZES: dict[str, tuple[float, float]] = {
    "man": (0.56, 0.75),
    "woman": (0.54, 0.75),
    "dog": (0.46, 1.25),
    "cat": (0.46, 1.25),
    "horse": (0.44, 1.5),
    "bird": (0.46, 1.1),
    "duck": (0.46, 1.15),
    "car": (0.44, 1.45),
    "bus": (0.44, 1.8),
    "truck": (0.42, 1.65),
    "bicycle": (0.5, 1.3),
    "boat": (0.44, 1.45),
    "ball": (0.52, 0.75),
}
_FIGURES: dict[str, Callable[[str, str, float, int], Canvas]] = {
    "man": partial(figures.person, dress=False),
    "woman": partial(figures.person, dress=True),
    "dog": figures.dog,
    "cat": figures.cat,
    "horse": figures.horse,
    "bird": figures.bird,
    "duck": figures.duck,
    "car": objects.car,
    "bus": objects.bus,
    "truck": objects.truck,
    "bicycle": objects.bicycle,
    "boat": objects.boat,
    "ball": objects.ball,
}
# Cycles a second, and image heights a second that the near ground passes by.
_PACE: dict[str, tuple[float, float]] = {
    "stand": (0.3, 0.0),
    "sit": (0.4, 0.0),
    "run": (2.0, 0.55),
    "jump": (0.8, 0.0),
    "fly": (2.2, 0.3),
    "swim": (0.7, 0.1),
    "drive": (1.5, 0.8),
    "ride": (1.0, 0.4),
    "sail": (0.35, 0.12),
    "roll": (0.8, 0.3),
    "bounce": (0.9, 0.0),
    "float": (0.5, 0.0),
}


def draw(scene: Scene, time: float, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The scene at `time` seconds (any time; scenes have no end): uint8 RGB, (height, width, 3).

    The same arguments give the same pixels. A first image of a scene draws its backdrop; the next ones scroll it.
    """
    unit = min(height, width * 9 / 16)
    rate, speed = _PACE[scene.action]
    facing = 1 if scene.look % 2 else -1
    travelled = speed * time * unit * facing
    place = _backdrop(scene.place, scene.look, width, height)
    drift = 0.012 * time * unit if scene.place != "room" else 0.0
    image = Image.fromarray(place.at(round(drift + travelled * 0.15), round(travelled)))
    for index in _back_to_front(scene):
        _place(image, scene, index, time, unit, rate, facing)
    return np.array(image)


def _back_to_front(scene: Scene) -> list[int]:
    return sorted(range(scene.count), key=lambda i: _depth(scene, i))


def _depth(scene: Scene, index: int) -> float:
    """0 at the far end of the area where figures stand, 1 at the near end."""
    return (scene.look // (11 + 6 * index) % 13) / 12


def _place(image: Image.Image, scene: Scene, index: int, time: float, unit: float, rate: float, facing: int) -> None:
    width, height = image.size
    natural, reach = _SIZES[scene.kind]
    depth = _depth(scene, index)
    slot = width / max(scene.count, 1.5)
    distance = 0.78 + 0.22 * (scene.look // 5 % 7) / 6
    scale = min(natural * unit * distance, 0.94 * slot / reach) * (0.92 + 0.08 * depth)
    spare = max(0.0, slot - reach * scale) / 2
    if scene.count == 1:
        spare = max(0.0, width - reach * scale) / 2
    home = width * (index + 0.5) / scene.count
    # A walking figure moves within its part of the image; one that stands, sits or leaps stays.
    roaming = 0.5 * time if _PACE[scene.action][1] else 0.0
    wander = 0.5 * math.sin(scene.look % 97 + 2 * index) + 0.5 * math.sin(roaming + scene.look % 31 + index)
    x = home + spare * 0.85 * wander
    horizon = horizon_of(scene.place, scene.look)
    y = height * (horizon + (1 - horizon) * (0.42 + 0.4 * depth))
    phase = (rate * time + index * 0.31 + (scene.look % 53) / 53) % 1
    if scene.kind == "bird":
        ground = y
        y = height * (0.3 + 0.16 * depth) + 0.03 * height * math.sin(time * 1.3 + index)
        _shadow(image, x, ground, 0.2 * scale, 0.35)
    elif scene.place == "water":
        _shadow(image, x, y + 0.03 * scale, 0.42 * reach * scale, 0.6)
    else:
        airborne = scene.action in ("jump", "bounce")
        _shadow(image, x, y, (0.26 if airborne else 0.42) * reach * scale, 0.6 if airborne else 1.0)
    step = int(phase * _PHASES)
    sprite, origin = _sprite(scene.kind, scene.color, scene.action, step, scene.look % 16, round(scale, 1), facing < 0)
    image.paste(sprite, (round(x - origin[0]), round(y - origin[1])), sprite)


def _shadow(image: Image.Image, x: float, y: float, half: float, strength: float) -> None:
    mask = _shadow_mask(max(2, round(half)), max(1, round(half * 0.16)), round(110 * strength))
    image.paste((16, 20, 34), (round(x - mask.width / 2), round(y - mask.height / 2)), mask)


@lru_cache(maxsize=64)
def _shadow_mask(half: int, flat: int, strength: int) -> Image.Image:
    mask = Image.new("L", (2 * half + 2 * flat + 4, 6 * flat + 4))
    ImageDraw.Draw(mask).ellipse((flat + 2, 2 * flat + 2, 2 * half + flat + 2, 4 * flat + 2), fill=strength)
    return mask.filter(ImageFilter.BoxBlur(max(1, flat // 2)))


@lru_cache(maxsize=6)
def _backdrop(place: str, look: int, width: int, height: int) -> Backdrop:
    return backdrop(place, look, width, height)


@lru_cache(maxsize=128)
def _sprite(
    kind: str, color: str, action: str, step: int, look: int, scale: float, mirrored: bool
) -> tuple[Image.Image, FigurePoint]:
    return _FIGURES[kind](color, action, step / _PHASES, look).sprite(scale, mirrored=mirrored)
