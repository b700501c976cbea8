"""Captions that people wrote of other pictures with the same things in them, for images that nobody has captioned.

A single borrowed sentence says much that is not there. Several of them agree on what is mostly said of such things,
and that is what CIDEr rewards.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from streamcap.captioner.grounding.object_words import find_mentions
from streamcap.training.mini.grounding.data.tags import CLASSES, TAGS, tags_of_text

MOST: Final = 8
"""Borrowed captions of one image."""
LEAST: Final = 4
"""An image for which fewer are found gets none."""
LOWEST_OVERLAP: Final = 0.3
_UNKNOWN_COST: Final = 0.15
"""Off the overlap, for each tag of a sentence that is not known to hold."""
_COUNTED: Final = 2 * len(CLASSES)
"""Tags that are objects, or several of one."""
_KEPT_SETS: Final = 20


class CaptionLibrary:
    """Sentences by their tags; those without a tag, or with a word for any of several classes, are left out."""

    def __init__(self, sentences: Iterable[str], seed: int = 3) -> None:
        sets: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for sentence in sentences:
            tags = tags_of_text(sentence)
            if tags and not any(mention.general for mention in find_mentions(sentence)):
                sets[tuple(tags)].append(sentence)
        self._sentences = list(sets.values())
        self._tags = np.zeros((len(sets), len(TAGS)), np.float32)
        for row, tags_of_set in enumerate(sets):
            self._tags[row, list(tags_of_set)] = 1
        self._random = random.Random(seed)

    def borrow(self, values: npt.NDArray[np.floating], weights: npt.NDArray[np.floating], main: int) -> list[str]:
        """Up to `MOST` captions for an image with these targets (K,), see `tags.targets_of_image`; empty where there
        are too few. None names an object that is known to be absent; all name the main object, whose number is `main`,
        -1 where that is not known. The overlap is that of Jaccard."""
        if not len(self._tags) or not values[: len(CLASSES)].any():
            return []
        true = values.astype(np.float32)
        shared = self._tags @ true
        overlap = shared / (self._tags.sum(1) + true.sum() - shared)
        overlap -= _UNKNOWN_COST * (self._tags @ (weights == 0).astype(np.float32))
        absent = ((values == 0) & (weights > 0))[:_COUNTED].astype(np.float32)
        overlap[(self._tags[:, :_COUNTED] @ absent) > 0] = -1
        if main >= 0:
            overlap[self._tags[:, main] == 0] = -1
        found: list[str] = []
        for row in np.argsort(-overlap, kind="stable")[:_KEPT_SETS]:
            if overlap[row] < LOWEST_OVERLAP or len(found) >= MOST:
                break
            found += self._pick(self._sentences[row], MOST - len(found))
        return found if len(found) >= LEAST else []

    def _pick(self, sentences: Sequence[str], count: int) -> list[str]:
        return self._random.sample(sentences, min(count, len(sentences)))
