"""Drawn scenes as training images: any size, any moment, through JPEG or not, and what each shows."""

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
"""Pixels of a side of a stored image; training crops and squashes from there."""
TIMES_A_SCENE = 3
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
"""Width and height drawn at, the commoner ones more often; what live cameras give, and smaller, which is cheaper."""


@dataclass(frozen=True, slots=True)
class DrawnPictures:
    """n images, their sentences and what they show."""

    pixels: npt.NDArray[np.uint8]
    """(n, SIDE, SIDE, 3)."""
    sentences: list[str]
    attributes: npt.NDArray[np.int64]
    """(n, len(ATTRIBUTES)): which of `values()` each attribute has."""


def values() -> list[list[str | int]]:
    """The values of each attribute, sorted: what an index in `attributes` stands for."""
    scenes = list(every_scene())
    return [sorted({getattr(scene, name) for scene in scenes}) for name in ATTRIBUTES]


def draw_pictures(count: int, seed: int) -> DrawnPictures:
    """`count` images of random scenes, in no order. The same seed draws the same."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = random_scene(rng)
        width, height = _SIZES[rng.integers(len(_SIZES))]
        start = rng.uniform(0, 60)
        # The backdrop of a scene is drawn once: several moments of one cost little more than one.
        for moment in range(min(TIMES_A_SCENE, count - len(scenes))):
            drawn = draw(scene, start + moment * rng.uniform(0.3, 4), width, height)
            pixels[len(scenes)] = _seen_by_a_camera(drawn, rng)
            scenes.append(scene)
    known = values()
    attributes = [[known[k].index(getattr(s, name)) for k, name in enumerate(ATTRIBUTES)] for s in scenes]
    order = rng.permutation(count)
    return DrawnPictures(pixels[order], [scenes[i].sentence for i in order], np.array(attributes)[order])


def cached_pictures(folder: Path, name: str, count: int, seed: int) -> DrawnPictures:
    """As `draw_pictures`, kept in `folder` as NAME.npy, memory-mapped, and NAME.json for the next run."""
    pixels, labels_file = folder / f"{name}.npy", folder / f"{name}.json"
    if not labels_file.is_file():
        drawn = draw_pictures(count, seed)
        write_array(pixels, np.uint8, drawn.pixels.shape, [drawn.pixels])
        write_json(labels_file, {"sentences": drawn.sentences, "attributes": drawn.attributes.tolist()})
    content = json.loads(labels_file.read_text(encoding="utf-8"))
    return DrawnPictures(read_array(pixels), content["sentences"], np.array(content["attributes"]))


def _seen_by_a_camera(drawn: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(drawn)
    if rng.random() < 0.5:
        coded = io.BytesIO()
        image.save(coded, "JPEG", quality=int(rng.integers(25, 85)))
        image = Image.open(coded)
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)
    return np.asarray(image.resize((SIDE, SIDE), filters[rng.integers(3)]))
