"""Images or clips with their captions, read from the layouts people have them in.

Flickr (lines or csv, see `caption_files`), COCO (json of `images` and `annotations`, ClipCap's list, Karpathy's splits)
and MSR-VTT (json of `videos` and `sentences`). What is amiss is listed, not fatal: empty captions, captions said twice,
images that are not there.
"""

from __future__ import annotations

import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from streamcap.atomic import read_json
from streamcap.errors import InputError
from streamcap.training.data.caption_files import (
    CocoImage,
    is_karpathy,
    parse_coco,
    parse_karpathy,
    read_captions,
    read_lines,
)
from streamcap.training.data.caption_files import read_json as read_any_json
from streamcap.training.data.text import normalize

Why = Literal[
    "missing", "broken", "empty caption", "duplicate caption", "duplicate item", "no caption", "malformed line"
]
SPLITS = ("train", "dev", "test")
CLIP_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something left out, and why."""

    name: str
    why: Why
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """An image or clip and its captions."""

    name: str
    captions: tuple[str, ...]


@dataclass(slots=True)
class Corpus:
    """The items of each split, in the order they were listed, and what was left out."""

    splits: dict[str, list[Item]]
    problems: list[Problem] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many problems there are of each kind."""
        return dict(Counter(problem.why for problem in self.problems))


class MediaFolder:
    """Where the images or clips are: a folder, or a tar file of images."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stretches: dict[str, tuple[int, int]] | None = None
        if path.is_file():
            try:
                # Uncompressed, so that an image is a stretch of the file and no handle need stay open.
                with tarfile.open(path, "r:") as tar:
                    members = [member for member in tar if member.isfile()]
            except tarfile.TarError as error:
                raise InputError(f"{path}: not a readable, uncompressed tar file ({error})") from None
            self._stretches = {PurePosixPath(m.name).name: (m.offset_data, m.size) for m in members}
        elif not path.is_dir():
            raise InputError(f"{path}: no such folder or tar file of images")

    def __contains__(self, name: str) -> bool:
        return name in self._stretches if self._stretches is not None else (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises OSError where it is not there or cannot be read."""
        if self._stretches is None:
            return (self.path / name).read_bytes()
        if name not in self._stretches:
            raise FileNotFoundError(f"{name} is not in {self.path}")
        start, size = self._stretches[name]
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def clip(self, stem: str) -> Path | None:
        """The clip whose name is `stem` with one of the usual endings, or None."""
        return next((path for end in CLIP_SUFFIXES if (path := self.path / f"{stem}{end}").is_file()), None)


def read_flickr(captions: Path, media: MediaFolder, splits: Mapping[str, Path]) -> Corpus:
    """Flickr8k and 30k in any of the files they are published in (see `read_captions`), or Karpathy's json.

    splits: files of one image name a line; Karpathy's json says the splits itself. Raises InputError.
    """
    if captions.suffix.lower() == ".json":
        return read_karpathy(captions, media)
    corpus = Corpus({})
    found = read_captions(captions)
    if not found.captions:
        raise InputError(f"{captions}: holds no line of the form `image_name| comment_number| comment`")
    corpus.problems += [Problem(f"line {number}", "malformed line", line[:80]) for number, line in found.malformed]
    listed = {split: [line.strip() for line in read_lines(path) if line.strip()] for split, path in splits.items()}
    for split, names in (listed or {"train": list(found.captions)}).items():
        corpus.splits[split] = _checked(names, found.captions, media, corpus.problems)
    return _nonempty(corpus, captions)


def read_coco(files: Mapping[str, Path], media: MediaFolder) -> Corpus:
    """COCO captions: one json for each split, COCO's own or ClipCap's list of annotations. Raises InputError."""
    corpus = Corpus({})
    for split, path in files.items():
        content = read_any_json(path)
        if is_karpathy(content):
            raise InputError(f"{path}: says its splits itself; give it alone, without {split}=")
        try:
            images, unknown = parse_coco(content)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not COCO captions: {type(error).__name__} {error}") from None
        corpus.problems += [Problem(f"image id {image}", "missing", "not in `images`") for image in unknown]
        corpus.splits[split] = _located(images, media, corpus.problems)
    return _nonempty(corpus, *files.values())


def read_karpathy(path: Path, media: MediaFolder) -> Corpus:
    """Karpathy's `dataset_coco.json` and its like, with the splits it says. Raises InputError."""
    content = read_any_json(path)
    if not is_karpathy(content):
        raise InputError(f"{path}: not Karpathy's json (images with sentences); COCO's own is given as SPLIT={path}")
    corpus = Corpus({})
    try:
        splits = parse_karpathy(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not Karpathy's json: {type(error).__name__} {error}") from None
    for split in sorted(splits, key=SPLITS.index):
        corpus.splits[split] = _located(splits[split], media, corpus.problems)
    return _nonempty(corpus, path)


def read_msrvtt(captions: Path, media: MediaFolder) -> Corpus:
    """MSR-VTT: the json says each clip's split (`train`, `validate`, `test`)."""
    content = read_json(captions)
    corpus = Corpus({})
    try:
        said: dict[str, list[str]] = {}
        for sentence in content["sentences"]:
            said.setdefault(str(sentence["video_id"]), []).append(str(sentence["caption"]))
        listed: dict[str, list[str]] = {}
        for video in content["videos"]:
            listed.setdefault(_msrvtt_split(video.get("split")), []).append(str(video["video_id"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{captions}: not MSR-VTT captions: {type(error).__name__} {error}") from None
    for split, names in listed.items():
        corpus.splits[split] = _checked(names, said, media, corpus.problems, clips=True)
    return _nonempty(corpus, captions)


def _msrvtt_split(name: object) -> str:
    """`train`, `validate`, `test` and the challenge's `public test`; train where nothing is said."""
    said = str(name or "train").lower()
    return "test" if "test" in said else "dev" if "val" in said else "train"


def _located(images: Iterable[CocoImage], media: MediaFolder, problems: list[Problem]) -> list[Item]:
    """The images where they are found, else where they should be."""
    said: dict[str, list[str]] = {}
    for image in images:
        said[next((path for path in image.paths if path in media), image.paths[0])] = list(image.captions)
    return _checked(said, said, media, problems)


def _checked(
    names: Iterable[str],
    said: Mapping[str, list[str]],
    media: MediaFolder,
    problems: list[Problem],
    *,
    clips: bool = False,
) -> list[Item]:
    items: list[Item] = []
    seen: set[str] = set()
    for name in names:
        if name in seen:
            problems.append(Problem(name, "duplicate item"))
            continue
        seen.add(name)
        if not (media.clip(name) is not None if clips else name in media):
            problems.append(Problem(name, "missing", f"not in {media.path}"))
            continue
        captions: dict[str, str] = {}
        for caption in said.get(name, ()):
            text = normalize(caption)
            if not text:
                problems.append(Problem(name, "empty caption", repr(caption)))
            elif text in captions:
                problems.append(Problem(name, "duplicate caption", caption))
            else:
                # A line or paragraph separator inside must not end a line of what is written of it.
                captions[text] = unicodedata.normalize("NFC", " ".join(caption.split()))
        if captions:
            items.append(Item(name, tuple(captions.values())))
        else:
            problems.append(Problem(name, "no caption"))
    return items


def _nonempty(corpus: Corpus, *sources: Path) -> Corpus:
    empty = [split for split, items in corpus.splits.items() if not items]
    if empty or not corpus.splits:
        what = ", ".join(empty) or "every"
        counts = ", ".join(f"{count} {why}" for why, count in corpus.counts().items()) or "nothing was listed"
        raise InputError(f"{', '.join(map(str, sources))}: the split {what} is empty ({counts})")
    return corpus
