"""Rendered views of fixed cameras that no photograph of the pool shows: vehicles from above, bottles and cups in a row,
people in rooms, from above and behind.

Shapes, colors, light and sizes are drawn at random, wider than cameras give them (domain randomization, Tobin et al.
2017), so that what is learned does not hang on how they are drawn. Some views are empty: an empty road is no car.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from streamcap.training.data.arrays import JoinedArrays
from streamcap.training.mini.grounding.data.renders.canvas import View
from streamcap.training.mini.grounding.data.renders.interior import interior
from streamcap.training.mini.grounding.data.renders.road import road
from streamcap.training.mini.grounding.data.renders.shelf import shelf
from streamcap.training.mini.grounding.data.tags import CLASSES, TAGS
from streamcap.training.mini.grounding.trainer import ImageSet

_SCENE_WEIGHT: Final = 0.3
"""Of the scenes that a view is not of."""
_KINDS: Final = ((road, 0.36), (shelf, 0.26), (interior, 0.38))
"""With their shares."""


def render(count: int, side: int, seed: int) -> list[View]:
    """`count` views of side x side pixels. The same seed renders the same."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(_KINDS), count, p=[share for _, share in _KINDS])
    return [_KINDS[kind][0](rng, side) for kind in kinds]


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
