"""The training and dev data of `mini`: made once from Flickr8k's folder and stored in the folder of the run."""

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
from streamcap.training.data.clips import UnreadableError, read_image
from streamcap.training.data.corpus import Item, MediaFolder, read_flickr
from streamcap.training.data.text import make_tokenizer, normalize
from streamcap.training.mini import synthetic
from streamcap.training.mini.stages.joint import RealImages

STORED = ImageSpec(192, 192, "squash", "bicubic")
"""Size of the stored real images; training crops from it."""
DRAWN_TRAIN, DRAWN_DEV = 18_000, 400
TRAIN_SEED, DEV_SEED = 1, 999

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(slots=True)
class Data:
    """Training and dev data: real images of Flickr8k, and synthetic scenes."""

    tokenizer: Tokenizer
    train: RealImages
    dev_pixels: Pixels
    dev_captions: list[tuple[str, ...]]
    scenes: synthetic.DrawnPictures
    scenes_dev: synthetic.DrawnPictures

    def sentences(self) -> list[list[int]]:
        """The token ids of the sentence of each synthetic training image."""
        return [encoded.ids for encoded in self.tokenizer.encode_batch(self.scenes.sentences)]


def prepare(source: Path, run: Path, vocabulary: int) -> Data:
    """Read the data from folder `run`; what is missing there is made from folder `source` and stored.

    vocabulary: size of the tokenizer's. Raises InputError for an image that cannot be read.
    """
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
        RealImages(pixels["train"], tokens),
        pixels["dev"],
        [item.captions for item in dev],
        synthetic.cached_pictures(run, "drawn-train", DRAWN_TRAIN, TRAIN_SEED),
        synthetic.cached_pictures(run, "drawn-dev", DRAWN_DEV, DEV_SEED),
    )


def _pixels(path: Path, items: list[Item], media: MediaFolder) -> Pixels:
    """(n, 192, 192, 3), uint8, memory-mapped."""
    if not path.is_file():
        shape = (len(items), STORED.height, STORED.width, 3)
        write_array(path, np.uint8, shape, (_read(item, media)[None] for item in items))
    found: Pixels = read_array(path)
    if len(found) != len(items):
        raise InputError(f"{path}: holds {len(found)} images, the split has {len(items)}; name another folder")
    return found


def _read(item: Item, media: MediaFolder) -> Pixels:
    try:
        return read_image(media.read(item.name), STORED)
    except (UnreadableError, OSError) as error:
        raise InputError(f"{item.name}: broken ({error}); take it out of {media.path} and the split") from None


def _tokenizer(path: Path, captions: list[list[str]], vocabulary: int) -> Tokenizer:
    if not path.is_file():
        # Sentences of synthetic scenes count twice, so that each of their words becomes a token.
        sentences = [scene.sentence for scene in every_scene()] * 2
        flat = [caption for several in captions for caption in several] + sentences
        atomic_write(path, make_tokenizer(flat, vocabulary).to_str().encode(), sync=True, error=StreamcapError)
    return Tokenizer.from_file(str(path))
