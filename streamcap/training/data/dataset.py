"""Encode a corpus of captioned images or clips into a feature cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamcap.training.data.clips import Pixels, UnreadableError, read_clip, read_image
from streamcap.training.data.corpus import Corpus, Item, MediaFolder, Problem
from streamcap.training.data.encoders import FeatureEncoder
from streamcap.training.data.feature_cache import CacheWriter

BATCH_IMAGES = 32
"""Images per encoder batch; for clips, frames."""


def build_cache(
    folder: Path,
    corpus: Corpus,
    media: MediaFolder,
    encoder: FeatureEncoder,
    *,
    frames: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
    on_problem: Callable[[Problem], None] = lambda problem: None,
) -> dict[str, Any]:
    """Encode every item into `folder`, and return the manifest.

    A stopped run is continued, and items that could not be read are tried again. frames: evenly spread frames per clip;
    None: the items are images. advance: called with the number of items done since the last call; items of earlier runs
    count too. on_problem: called at the end for every item that could not be read. Raises InputError for a folder that
    holds another cache or cannot be created, and StreamcapError if a write fails.
    """
    writer = CacheWriter(folder, encoder.id, frames, corpus.splits)

    def readable(item: Item) -> bool:
        try:
            _pixels(item, media, encoder, frames)
        except (UnreadableError, OSError):
            return False
        return True

    missing = list(writer.missing(readable))
    if missing:
        writer.reopen()
    advance(sum(map(len, corpus.splits.values())) - sum(len(items) for _, _, items in missing))
    for split, number, items in missing:
        names: list[str] = []
        skipped: list[Problem] = []
        parts: list[np.ndarray[Any, np.dtype[np.float16]]] = []
        step = max(1, BATCH_IMAGES // (frames or 1))
        for start in range(0, len(items), step):
            batch = items[start : start + step]
            pixels: list[Pixels] = []
            for item in batch:
                try:
                    pixels.append(_pixels(item, media, encoder, frames))
                    names.append(item.name)
                except (UnreadableError, OSError) as error:
                    skipped.append(Problem(item.name, "broken", str(error)))
            if pixels:
                parts.append(_encode(np.stack(pixels), encoder))
            advance(len(batch))
        if parts:
            writer.write(split, number, names, np.concatenate(parts), skipped)
        else:
            writer.write(split, number, [], np.zeros((0,), np.float16), skipped)
    return writer.finish(list(corpus.problems), on_problem)


def _pixels(item: Item, media: MediaFolder, encoder: FeatureEncoder, frames: int | None) -> Pixels:
    if frames is None:
        return read_image(media.read(item.name), encoder.image_spec)
    path = media.clip(item.name)
    if path is None:
        raise UnreadableError("the clip no longer exists")
    return read_clip(path, frames, encoder.image_spec)


def _encode(pixels: Pixels, encoder: FeatureEncoder) -> np.ndarray[Any, np.dtype[np.float16]]:
    """(B, H, W, 3) → (B, ...), or (B, T, H, W, 3) → (B, T, ...)."""
    if pixels.ndim == 4:
        return encoder.encode(pixels).astype(np.float16)
    flat = encoder.encode(pixels.reshape(-1, *pixels.shape[2:]))
    return flat.reshape(*pixels.shape[:2], *flat.shape[1:]).astype(np.float16)
