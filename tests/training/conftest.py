"""Caches of synthetic features, so that training needs no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from streamcap.captioner.checkpoints.settings import EncoderRef
from streamcap.training.data.corpus import Item
from streamcap.training.data.feature_cache import CacheWriter, FeatureCache

SENTENCES = ("a red car drives on a road", "two dogs run in the snow", "a man jumps", "three white boats sail")
ENCODER = EncoderRef("made-up", "projected", "0" * 64)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower with two threads, on a busy machine much slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sentence_of(number: int) -> str:
    return SENTENCES[number % len(SENTENCES)]


def make_cache(
    folder: Path,
    shape: tuple[int, ...],
    *,
    frames: int | None = None,
    scale: float = 1.0,
    encoder: EncoderRef = ENCODER,
    when: str = "today",
) -> FeatureCache:
    """64 train and 8 dev items; the features encode the sentence, and a second caption appends `when` to it."""
    splits = {
        split: [Item(f"{split}{i}", (sentence_of(i), f"{sentence_of(i)} {when}")) for i in range(count)]
        for split, count in (("train", 64), ("dev", 8))
    }
    writer = CacheWriter(folder, encoder, frames, splits)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(SENTENCES), *shape))
    for split, number, items in list(writer.missing()):
        noise = 0.1 * rng.normal(size=(len(items), *shape))
        features = np.stack([directions[i % len(SENTENCES)] for i in range(len(items))]) + noise
        writer.write(split, number, [item.name for item in items], (scale * features).astype(np.float16), [])
    writer.finish([])
    return FeatureCache(folder)


@pytest.fixture(scope="session")
def cache_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FeatureCache]:
    caches: dict[tuple[tuple[int, ...], int | None], FeatureCache] = {}

    def cache(shape: tuple[int, ...], frames: int | None = None) -> FeatureCache:
        key = (shape, frames)
        if key not in caches:
            caches[key] = make_cache(tmp_path_factory.mktemp("cache") / "features", shape, frames=frames)
        return caches[key]

    return cache
