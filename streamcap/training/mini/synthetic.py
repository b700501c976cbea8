"""Synthetic scenes as training images: random sizes and moments, half of them through JPEG, with their attributes."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from streamcap.atomic import write_json
from streamcap.media.scenes import Scene, draw, every_scene, random_scene
from streamcap.training.data.arrays import read_array, write_array

SIDE = 160
"""Width and height of a stored image, in pixels; training crops from it."""
IMAGES_PER_SCENE = 3
ATTRIBUTES = ("kind", "color", "count", "action", "place")
_SIZES = (
    *((320, 180),) * 6,
    *((256, 144),) * 2,
    *((426, 240),) * 3,
    *((640, 360),) * 3,
    *((320, 240),) * 3,
    (480, 360),
    (224, 224),
    (160, 120),
    (1280, 720),
)
"""Width and height of the drawing, in pixels; a repeated size is drawn more often. Sizes of cameras, and smaller ones,
which are cheaper."""


@dataclass(frozen=True, slots=True)
class DrawnPictures:
    """n images with their sentences and attributes."""

    pixels: npt.NDArray[np.uint8]
    """(n, SIDE, SIDE, 3)."""
    sentences: list[str]
    attributes: npt.NDArray[np.int64]
    """(n, len(ATTRIBUTES)): index of each attribute's value in `values()`."""


def values() -> list[list[str | int]]:
    """The possible values of each attribute, sorted."""
    scenes = list(every_scene())
    return [sorted({getattr(scene, name) for scene in scenes}) for name in ATTRIBUTES]


def draw_pictures(count: int, seed: int) -> DrawnPictures:
    """`count` images of random scenes in random order, reproducible by `seed`."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng)
        width, height = _SIZES[rng.integers(len(_SIZES))]
        start = rng.uniform(0, 60)
        # The backdrop of a scene is drawn once, so that more moments of it cost little.
        for moment in range(min(IMAGES_PER_SCENE, count - len(scenes))):
            drawn = draw(scene, start + moment * rng.uniform(0.3, 4), width, height)
            pixels[len(scenes)] = _through_camera(drawn, rng)
            scenes.append(scene)
    known = values()
    attributes = [[known[k].index(getattr(s, name)) for k, name in enumerate(ATTRIBUTES)] for s in scenes]
    order = rng.permutation(count)
    return DrawnPictures(pixels[order], [scenes[i].sentence for i in order], np.array(attributes)[order])


def cached_pictures(folder: Path, name: str, count: int, seed: int) -> DrawnPictures:
    """As `draw_pictures`, stored as NAME.npy (memory-mapped) and NAME.json in `folder`, and reused from there."""
    pixels, labels_file = folder / f"{name}.npy", folder / f"{name}.json"
    if not labels_file.is_file():
        drawn = draw_pictures(count, seed)
        write_array(pixels, np.uint8, drawn.pixels.shape, [drawn.pixels])
        write_json(labels_file, {"sentences": drawn.sentences, "attributes": drawn.attributes.tolist()})
    content = json.loads(labels_file.read_text(encoding="utf-8"))
    return DrawnPictures(read_array(pixels), content["sentences"], np.array(content["attributes"]))


def _through_camera(drawn: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(drawn)
    if rng.random() < 0.5:
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=int(rng.integers(25, 85)))
        image = Image.open(jpeg)
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)
    return np.asarray(image.resize((SIDE, SIDE), filters[rng.integers(3)]))
