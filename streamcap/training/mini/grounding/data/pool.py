"""All that the recipe `grounded` is trained on, made once and kept in the run's folder."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from streamcap.atomic import atomic_write, write_json
from streamcap.captioner.grounding.object_words import OBJECTS
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec
from streamcap.media.scenes import every_scene
from streamcap.training.data.arrays import read_array, write_array
from streamcap.training.data.clips import UnreadableError, read_image
from streamcap.training.data.corpus import MediaFolder, read_flickr
from streamcap.training.data.text import normalize
from streamcap.training.evaluation.held_out import is_held_out, source_of
from streamcap.training.evaluation.object_truth import (
    Detection,
    ImageTruth,
    read_detections,
    read_json_lines,
    read_labels,
    truth_of_captions,
    truth_of_image,
)
from streamcap.training.mini.data import DEV_SEED, DRAWN_DEV, DRAWN_TRAIN, TRAIN_SEED
from streamcap.training.mini.grounding.data.borrowed_captions import CaptionLibrary
from streamcap.training.mini.grounding.data.pseudo_captions import pseudo_captions
from streamcap.training.mini.grounding.data.renders.views import render, with_renders
from streamcap.training.mini.grounding.data.tags import (
    CLASSES,
    SCENES,
    TAGS,
    sources_of,
    tags_of_text,
    targets_of_image,
    targets_of_text,
)
from streamcap.training.mini.grounding.trainer import ImageSet, SyntheticSet, TextSet
from streamcap.training.mini.grounding.warm_start import extend_tokenizer, words_to_add
from streamcap.training.mini.synthetic import DrawnPictures, cached_pictures

log = logging.getLogger(__name__)

STORED = ImageSpec(176, 176, "squash", "area")
SENTENCES = 120_000
"""Sentences without an image that are kept, those with an object first."""
NEW_WORDS = 900
FLICKR = "flickr8k"
SOURCE_CHANCES = {"voc5": 1.6, "lehtcoco": 2.5, "vikrant": 4.0, "miniclip": 2.0, "ade": 1.2, "facade": 0.3,
                  "trash": 0.4, "grocery": 0.5, "inet1k": 1.2, "weather": 0.5, "megadet": 0.3, "intel": 0.6,
                  "caltech": 0.7, "catdog": 0.5, "animals": 0.5, "camvid": 1.5}  # fmt: skip
"""Relative chances of an image of each source; what is not named has 1."""
RARE = 0.01
"""Share of images under which a class makes its images come more often, by the root of how rare it is, as in LVIS
(Gupta et al. 2019), up to `MOST_REPEATED` times."""
MOST_REPEATED = 2.5
RENDERS = 2_200
RENDER_SEED = 7
RENDERED_SHARE = 0.3
"""How often renders come in `PoolData.wide`, for each photograph without a caption."""
CAPTIONED_POOL = 2.5
"""Times as often come the pool's captioned images in `PoolData.wide`, which are few beside Flickr8k's."""
FLICKR_SHARE = 0.45
"""Of the images of a batch that are drawn by `ImageSet.chances`."""


@dataclass(frozen=True, slots=True)
class PoolData:
    """All that the recipe's stages need."""

    tokenizer: Tokenizer
    images: ImageSet
    """Renders come last and have no chance here."""
    wide: ImageSet
    """The same images, with borrowed captions where people wrote none; renders have their chance."""
    synthetic: SyntheticSet
    text: TextSet
    scenes_dev: DrawnPictures
    dev_pixels: npt.NDArray[np.uint8]
    dev_captions: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    source: str
    labels: str
    captions: tuple[str, ...]


def prepare_pool(
    flickr: Path, pool: Path, text: Path | None, labels_of_flickr: Path | None, run: Path, start: Tokenizer
) -> PoolData:
    """Read and cache everything. text: sentences.txt.gz. labels_of_flickr: a teachers.jsonl of Flickr8k's images.
    start: the tokenizer to extend. Raises InputError; a pool that lacks some sources or captions is used as it is."""
    run.mkdir(parents=True, exist_ok=True)
    media = {FLICKR: _media(flickr, "images-192.tar"), "pool": _media(pool, "images-176.tar")}
    corpus = read_flickr(flickr / "results.csv", media[FLICKR], {s: flickr / f"{s}.txt" for s in ("train", "dev")})
    entries = [_Entry(item.name, FLICKR, "", item.captions) for item in corpus.splits["train"]]
    entries += _pool_entries(pool, media["pool"])
    kept, pixels = _read_images(run, "images", entries, media)
    dev = [_Entry(item.name, FLICKR, "", item.captions) for item in corpus.splits["dev"]]
    dev_kept, dev_pixels = _read_images(run, "dev", dev, media)
    images, captions = _describe(kept, pool, labels_of_flickr)
    sentences = _sentences(text)
    scenes = sorted({scene.sentence for scene in every_scene()})
    tokenizer = _tokenizer(run, start, [*sentences, *(c for several in captions for c in several)], scenes)

    def encode(lines: Sequence[str]) -> list[list[int]]:
        return [encoded.ids for encoded in tokenizer.encode_batch(list(lines))]

    synthetic = cached_pictures(run, "drawn-train", DRAWN_TRAIN, TRAIN_SEED)
    known = {sentence: targets_of_text(sentence)[0] for sentence in set(synthetic.sentences)}
    values, weights, imagenet, main = images
    photographs = ImageSet(
        pixels,
        values,
        weights,
        imagenet,
        [encode(several) for several in captions],
        np.array([bool(entry.captions) for entry in kept]),
        main,
        _chances(kept, values),
    )
    all_images = with_renders(photographs, render(RENDERS, STORED.width, RENDER_SEED), encode)
    borrowed = _borrow(run, all_images, coco_sentences(text))
    flickr_rows = np.array([entry.source == FLICKR for entry in kept] + [False] * all_images.rendered)
    return PoolData(
        tokenizer,
        all_images,
        _widen(all_images, {row: encode(several) for row, several in borrowed.items()}, flickr_rows),
        SyntheticSet(synthetic, encode(synthetic.sentences), np.stack([known[one] for one in synthetic.sentences])),
        TextSet(encode(sentences), [tags_of_text(sentence) for sentence in sentences]),
        cached_pictures(run, "drawn-dev", DRAWN_DEV, DEV_SEED),
        dev_pixels,
        [entry.captions for entry in dev_kept],
    )


def _media(folder: Path, tar: str) -> MediaFolder:
    return MediaFolder(folder / tar if (folder / tar).is_file() else folder / "images")


def _pool_entries(pool: Path, media: MediaFolder) -> list[_Entry]:
    """The images that may be trained on: none that is held out."""
    captions: dict[str, tuple[str, ...]] = {}
    if (pool / "captions.csv").is_file():
        items = read_flickr(pool / "captions.csv", media, {}).splits["train"]
        captions = {item.name: item.captions for item in items}
    else:
        log.warning("%s: no captions.csv; only Flickr8k's images have captions by people", pool)
    labels = read_labels(pool / "labels.csv")
    entries = [
        _Entry(name, source_of(name), marked, captions.get(name, ()))
        for name, marked in labels.items()
        if name in media and not is_held_out(name, captioned=name in captions)
    ]
    if not entries:
        raise InputError(f"{pool}: none of the {len(labels)} labeled images is there")
    if (missing := sum(name not in media for name in labels)) > 0:
        log.warning("%s: %d of %d labeled images are not there and left out", pool, missing, len(labels))
    return entries


def _read_images(
    run: Path, stem: str, entries: list[_Entry], media: dict[str, MediaFolder]
) -> tuple[list[_Entry], npt.NDArray[np.uint8]]:
    """The entries whose images can be read, and their pixels (n, 176, 176, 3), memory-mapped."""
    path, listed = run / f"{stem}.npy", run / f"{stem}.json"
    if not listed.is_file():
        kept: list[str] = []
        parts: list[npt.NDArray[np.uint8]] = []
        for entry in entries:
            folder = media[FLICKR if entry.source == FLICKR else "pool"]
            try:
                parts.append(read_image(folder.read(entry.name), STORED))
                kept.append(entry.name)
            except (UnreadableError, OSError) as error:
                log.warning("%s: broken (%s), left out", entry.name, error)
        write_array(path, np.uint8, (len(kept), STORED.height, STORED.width, 3), (one[None] for one in parts))
        write_json(listed, kept)
    names = json.loads(listed.read_text(encoding="utf-8"))
    by_name = {entry.name: entry for entry in entries}
    if (stray := next((name for name in names if name not in by_name), None)) is not None:
        raise InputError(f"{path}: holds {stray}, which is not among the images any more; name another folder")
    pixels: npt.NDArray[np.uint8] = read_array(path)
    return [by_name[name] for name in names], pixels


Arrays = tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], npt.NDArray[np.float16], npt.NDArray[np.int64]]


def _describe(kept: list[_Entry], pool: Path, labels_of_flickr: Path | None) -> tuple[Arrays, list[list[str]]]:
    """Targets (values, weights, ImageNet's classes, the main object) and captions of every image."""
    lines: dict[str, dict[str, Any]] = {}
    detections: dict[str, tuple[list[Detection], ...]] = {}
    for path in (pool / "teachers.jsonl.gz", labels_of_flickr):
        if path is None or not path.is_file():
            log.warning("%s: no teacher's labels; the images have what people marked alone", path or "Flickr8k")
            continue
        lines |= {entry["image"]: entry for entry in read_json_lines(path)}
        detections |= read_detections(path)
    values = np.zeros((len(kept), len(TAGS)), np.float16)
    weights, imagenet = np.zeros_like(values), np.zeros((len(kept), 1000), np.float16)
    main = np.full(len(kept), -1, np.int64)
    captions: list[list[str]] = []
    rng = random.Random(1)
    for row, entry in enumerate(kept):
        line, seen = lines.get(entry.name, {}), detections.get(entry.name, ())
        human = [normalize(caption) for caption in entry.captions]
        truth = _truth(entry, seen, human)
        values[row], weights[row] = targets_of_image(truth, entry.labels, seen, sources_of(line), human)
        if truth.main is not None:
            main[row] = CLASSES.index(truth.main)
        if not line:
            # Nobody looked for what captions and labels leave out.
            weights[row, values[row] == 0] *= 0.3
        for number, share in line.get("imagenet", ()):
            imagenet[row, number] = share
        scenes = [name for name in SCENES if values[row, TAGS.index(name)]]
        captions.append(human or pseudo_captions(truth, entry.labels, seen, scenes, rng))
    return (values, weights, imagenet, main), captions


def _truth(entry: _Entry, seen: Sequence[Sequence[Detection]], captions: Sequence[str]) -> ImageTruth:
    truth = truth_of_image(entry.source, entry.labels, seen, captions)
    if entry.source != FLICKR:
        return truth
    # One caption of five can err; a detector beside it bears it out.
    counts = Counter(name for caption in captions for name in truth_of_captions([caption]).present)
    detected = truth_of_image(entry.source, "", seen)
    sure = {name for name, count in counts.items() if count > 1 or name in detected.present | detected.unknown}
    present = frozenset(sure) | detected.present
    return ImageTruth(present, (frozenset(counts) | detected.unknown) - present, truth.main)


def coco_sentences(text: Path | None) -> Iterator[str]:
    """Captions of photographs of every kind, of 6 to 14 words."""
    for source, sentence in [] if text is None else _read_sentences(text):
        if source.startswith(("coco", "texygen")) and 6 <= len(sentence.split()) <= 14:
            yield sentence


def _borrow(run: Path, images: ImageSet, sentences: Iterable[str]) -> dict[int, list[str]]:
    """Captions by row, for photographs that nobody has captioned; kept in RUN/borrowed.json."""
    path = run / "borrowed.json"
    if not path.is_file():
        library = CaptionLibrary(sentences)
        rows = np.flatnonzero(~images.captioned[: len(images.captioned) - images.rendered])
        found = {
            int(row): library.borrow(images.values[row], images.weights[row], int(images.main[row])) for row in rows
        }
        write_json(path, {str(row): several for row, several in found.items() if several})
    return {int(row): several for row, several in json.loads(path.read_text(encoding="utf-8")).items()}


def _widen(images: ImageSet, borrowed: dict[int, list[list[int]]], flickr: npt.NDArray[np.bool_]) -> ImageSet:
    chances = images.chances.copy()
    chances[images.captioned & ~flickr] *= CAPTIONED_POOL
    if images.rendered:
        chances[-images.rendered :] = RENDERED_SHARE * chances[~images.captioned].sum() / images.rendered
    tokens = [borrowed.get(row, several) for row, several in enumerate(images.tokens)]
    return replace(images, tokens=tokens, chances=chances)


def _read_sentences(text: Path) -> list[tuple[str, str]]:
    """Source and sentence of every line. Raises InputError."""
    try:
        with gzip.open(text, "rt", encoding="utf-8") as stream:
            parts = [line.rstrip("\n").rpartition("\t") for line in stream]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{text}: cannot be read ({error})") from None
    return [(source, sentence) for source, _, sentence in parts]


def _sentences(text: Path | None) -> list[str]:
    if text is None:
        return []
    by_kind: dict[bool, list[str]] = defaultdict(list)
    for source, sentence in _read_sentences(text):
        if 4 <= len(sentence.split()) <= 16:
            # Half of all sentences are of Flickr's kind, which captions teach as well.
            by_kind[not source.startswith("multi30k")].append(sentence)
    rng = random.Random(2)
    for several in by_kind.values():
        rng.shuffle(several)
    chosen = by_kind[True][:SENTENCES]
    return chosen + by_kind[False][: max(0, SENTENCES - len(chosen))]


def _tokenizer(run: Path, start: Tokenizer, sentences: Iterable[str], scenes: Sequence[str]) -> Tokenizer:
    path = run / "tokenizer.json"
    if not path.is_file():
        wanted = [word for words in OBJECTS.values() for word in words]
        words = words_to_add(start, sentences, wanted, NEW_WORDS)
        # A drawn scene's sentence is cut as before, or its words would be learned anew.
        kept = {word for scene in scenes for word in scene.split()}
        extended = extend_tokenizer(start, [word for word in words if word not in kept])
        atomic_write(path, extended.to_str(), sync=True, error=StreamcapError)
    return Tokenizer.from_file(str(path))


def _chances(kept: Sequence[_Entry], values: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    objects = values[:, : len(CLASSES)] > 0
    repeated = np.clip(np.sqrt(RARE / np.maximum(objects.mean(0), 1e-9)), 1, MOST_REPEATED)
    chances: npt.NDArray[np.float64] = np.array([SOURCE_CHANCES.get(entry.source, 1.0) for entry in kept])
    chances *= np.where(objects, repeated, 1.0).max(1)
    flickr = np.array([entry.source == FLICKR for entry in kept])
    if flickr.any() and not flickr.all():
        chances[flickr] *= FLICKR_SHARE / (1 - FLICKR_SHARE) * chances[~flickr].sum() / chances[flickr].sum()
    return chances
