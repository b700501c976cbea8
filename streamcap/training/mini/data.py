"""All that `mini` is trained and judged on, made once from Flickr8k's folder and kept in the run's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from streamcap.atomic import atomic_write
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec
from streamcap.media.scenes import every_scene
from streamcap.training.data.arrays import read_array, write_array
from streamcap.training.data.clips import UnreadableError, read_picture
from streamcap.training.data.corpus import Item, MediaFolder, read_flickr
from streamcap.training.data.text import make_tokenizer, normalize
from streamcap.training.mini import synthetic
from streamcap.training.mini.stages.joint import RealPictures

STORED = ImageSpec(192, 192, "squash", "bicubic")
"""How the real images are kept: training crops from there."""
DRAWN_TRAIN, DRAWN_DEV = 18_000, 400
TRAIN_SEED, DEV_SEED = 1, 999

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(slots=True)
class Data:
    """All that is trained and judged on."""

    tokenizer: Tokenizer
    train: RealPictures
    dev_pixels: Pixels
    dev_captions: list[tuple[str, ...]]
    scenes: synthetic.DrawnPictures
    scenes_dev: synthetic.DrawnPictures

    def sentences(self) -> list[list[int]]:
        """The tokens of every drawn training image's sentence."""
        return [encoded.ids for encoded in self.tokenizer.encode_batch(self.scenes.sentences)]


def prepare(source: Path, run: Path, vocabulary: int) -> Data:
    """Everything the stages need, from RUN where an earlier call has left it. Raises InputError."""
    run.mkdir(parents=True, exist_ok=True)
    tar = source / "images-192.tar"
    media = MediaFolder(tar if tar.is_file() else source / "images")
    corpus = read_flickr(source / "results.csv", media, {split: source / f"{split}.txt" for split in ("train", "dev")})
    train, dev = corpus.splits["train"], corpus.splits["dev"]
    pixels = {split: _pixels(run / f"{split}.npy", corpus.splits[split], media) for split in ("train", "dev")}
    captions = [[normalize(caption) for caption in item.captions] for item in train]
    tokenizer = _tokenizer(run / "tokenizer.json", captions, vocabulary)
    tokens = [[encoded.ids for encoded in tokenizer.encode_batch(several)] for several in captions]
    return Data(
        tokenizer,
        RealPictures(pixels["train"], tokens),
        pixels["dev"],
        [item.captions for item in dev],
        synthetic.cached_pictures(run, "drawn-train", DRAWN_TRAIN, TRAIN_SEED),
        synthetic.cached_pictures(run, "drawn-dev", DRAWN_DEV, DEV_SEED),
    )


def _pixels(path: Path, items: list[Item], media: MediaFolder) -> Pixels:
    """(n, 192, 192, 3), memory-mapped."""
    if not path.is_file():
        shape = (len(items), STORED.height, STORED.width, 3)
        write_array(path, np.uint8, shape, (_read(item, media)[None] for item in items))
    found: Pixels = read_array(path)
    if len(found) != len(items):
        raise InputError(f"{path}: holds {len(found)} images, the split has {len(items)}; name another folder")
    return found


def _read(item: Item, media: MediaFolder) -> Pixels:
    try:
        return read_picture(media.read(item.name), STORED)
    except (UnreadableError, OSError) as error:
        raise InputError(f"{item.name}: broken ({error}); take it out of {media.path} and the split") from None


def _tokenizer(path: Path, captions: list[list[str]], vocabulary: int) -> Tokenizer:
    if not path.is_file():
        # The drawn scenes' sentences twice, or a few of their words would be cut into letters.
        sentences = [scene.sentence for scene in every_scene()] * 2
        flat = [caption for several in captions for caption in several] + sentences
        atomic_write(path, make_tokenizer(flat, vocabulary).to_str().encode(), sync=True, error=StreamcapError)
    return Tokenizer.from_file(str(path))
