"""A captioner of a few thousand weights and made-up images, for the stages of `mini`'s recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from streamcap.image_spec import ImageSpec
from streamcap.training.data.text import make_tokenizer
from streamcap.training.mini import synthetic, teacher
from streamcap.training.mini.data import Data
from streamcap.training.mini.stages.joint import RealImages
from streamcap.training.mini.teacher import TeacherOutput

PICTURE = ImageSpec(64, 64, "squash", "area", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG: dict[str, Any] = {
    "vision": {
        "architecture": "staged",
        "stem": 4,
        "widths": [8, 8, 16, 16],
        "depths": [1, 1, 0, 1],
        "strides": [2, 2, 2, 2],
        "outputs": [5, 5, 8, 16],
    },
    "mapping": {"architecture": "grid", "cells": 4, "channels": 16, "width": 64, "prefix": 2, "layers": 1, "heads": 2},
    "gpt2": {"vocab_size": 320, "n_positions": 40, "n_embd": 64, "n_layer": 1, "n_head": 1}
    | {"bos_token_id": 0, "eos_token_id": 0},
}
CAPTIONS = (("a red car on a road", "the car is red"), ("two dogs run", "dogs in the snow", "two dogs in the snow"))


class Colors:
    """A teacher that knows the mean color of every cell, at four sizes of cells."""

    def features(self, images: np.ndarray) -> TeacherOutput:
        planes = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        maps = [F.avg_pool2d(planes, cell) for cell in (4, 8, 16, 32)]
        mean = planes.mean((1, 2, 3))[:, None]
        return TeacherOutput(maps, mean.expand(-1, teacher.CLASSES))


def make_data() -> Data:
    """Eight images, black or white, with captions that tell which, and eight drawn scenes."""
    scenes = synthetic.draw_pictures(8, seed=3)
    captions = [CAPTIONS[i % 2] for i in range(8)]
    flat = [caption for several in captions for caption in several]
    tokenizer = make_tokenizer([*scenes.sentences, *flat * 4], 320)
    tokens = [[encoded.ids for encoded in tokenizer.encode_batch(list(several))] for several in captions]
    pixels = np.stack([np.full((96, 96, 3), 255 * (i % 2), np.uint8) for i in range(8)])
    pixels[:, ::3] = 128
    return Data(tokenizer, RealImages(pixels, tokens), pixels[:4], captions[:4], scenes, scenes)
