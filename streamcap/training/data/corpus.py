"""Captioned images or clips in the published layouts.

Flickr (lines or CSV, see `caption_files`), COCO (JSON of `images` and `annotations`, ClipCap's list, Karpathy's splits)
and MSR-VTT (JSON of `videos` and `sentences`). Empty captions, duplicate captions and missing images are listed as
problems; they are not fatal.
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
    read_json_values,
    read_lines,
)
from streamcap.training.data.text import normalize

Why = Literal[
    "missing", "broken", "empty caption", "duplicate caption", "duplicate item", "no caption", "malformed line"
]
SPLITS = ("train", "dev", "test")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")
CLIP_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")


@dataclass(frozen=True, slots=True)
class Problem:
    """An image, clip, caption or line that was left out, and the reason."""

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
    """The items of each split, in listed order, and what was left out."""

    splits: dict[str, list[Item]]
    problems: list[Problem] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The number of problems of each kind."""
        return dict(Counter(problem.why for problem in self.problems))


class MediaFolder:
    """The images or clips: a folder, or an uncompressed tar file of images. Raises InputError for anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # For a tar file: name → (offset, size).
        self._members: dict[str, tuple[int, int]] | None = None
        if path.is_file():
            try:
                # Uncompressed, so that an image is a byte range of the file and no handle stays open.
                with tarfile.open(path, "r:") as tar:
                    members = [member for member in tar if member.isfile()]
            except tarfile.TarError as error:
                raise InputError(f"{path}: not a readable, uncompressed tar file ({error}); unpack it first") from None
            self._members = {PurePosixPath(m.name).name: (m.offset_data, m.size) for m in members}
        elif not path.is_dir():
            raise InputError(f"{path}: no such folder or tar file of images")

    def __contains__(self, name: str) -> bool:
        return name in self._members if self._members is not None else (self.path / name).is_file()

    def find(self, name: str) -> str | None:
        """The file that `name` means: itself, a path of Windows, its last part, or another image suffix; else None."""
        path = name.replace("\\", "/")
        tried = dict.fromkeys((name, path, PurePosixPath(path).name))
        stems = [one[: -len(suffix)] if (suffix := PurePosixPath(one).suffix) else one for one in tried]
        others = (f"{stem}{suffix}" for stem in dict.fromkeys(stems) for suffix in _IMAGE_SUFFIXES)
        return next((one for one in (*tried, *others) if one in self), None)

    def read(self, name: str) -> bytes:
        """The bytes of file `name`. Raises OSError if it is missing or cannot be read."""
        if self._members is None:
            return (self.path / name).read_bytes()
        if name not in self._members:
            raise FileNotFoundError(f"{name} is not in {self.path}")
        start, size = self._members[name]
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def clip(self, stem: str) -> Path | None:
        """The clip `stem` with one of CLIP_SUFFIXES, or None."""
        return next((path for suffix in CLIP_SUFFIXES if (path := self.path / f"{stem}{suffix}").is_file()), None)


def read_flickr(captions: Path, media: MediaFolder, splits: Mapping[str, Path]) -> Corpus:
    """Read Flickr8k or Flickr30k in any of its published formats (see `read_captions`), or Karpathy's JSON.

    splits: files with one image name per line; Karpathy's JSON has its own splits. Raises InputError.
    """
    if captions.suffix.lower() == ".json":
        return read_karpathy(captions, media)
    corpus = Corpus({})
    lines = read_captions(captions)
    if not lines.captions:
        raise InputError(f"{captions}: holds no line of the form `image_name| comment_number| comment`")
    corpus.problems += [Problem(f"line {number}", "malformed line", line[:80]) for number, line in lines.malformed]
    by_stem = {PurePosixPath(name).stem: name for name in lines.captions}
    listed = {split: [_listed(line.strip(), lines.captions, by_stem) for line in read_lines(path) if line.strip()]
              for split, path in splits.items()}  # fmt: skip
    for split, names in (listed or {"train": list(lines.captions)}).items():
        corpus.splits[split] = _make_items(names, lines.captions, media, corpus.problems)
    return _require_items(corpus, captions)


def _listed(name: str, captions: Mapping[str, list[str]], by_stem: Mapping[str, str]) -> str:
    """The name in the caption file that a line of a split file means; split files often have no suffix."""
    return name if name in captions else by_stem.get(name, name)


def read_coco(files: Mapping[str, Path], media: MediaFolder) -> Corpus:
    """Read COCO captions: one JSON file per split, in COCO's format or ClipCap's list. Raises InputError."""
    corpus = Corpus({})
    for split, path in files.items():
        content = read_json_values(path)
        if is_karpathy(content):
            raise InputError(f"{path}: has its own splits; give it alone, without {split}=")
        try:
            images, unknown = parse_coco(content)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not COCO captions: {type(error).__name__} {error}") from None
        corpus.problems += [Problem(f"image id {image}", "missing", "not in `images`") for image in unknown]
        corpus.splits[split] = _locate(images, media, corpus.problems)
    return _require_items(corpus, *files.values())


def read_karpathy(path: Path, media: MediaFolder) -> Corpus:
    """Read Karpathy's `dataset_coco.json`, `_flickr8k` or `_flickr30k` with its splits. Raises InputError."""
    content = read_json_values(path)
    if not is_karpathy(content):
        raise InputError(f"{path}: not Karpathy's JSON (images with sentences); give COCO's own as SPLIT={path}")
    corpus = Corpus({})
    try:
        splits = parse_karpathy(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not Karpathy's JSON: {type(error).__name__} {error}") from None
    for split in sorted(splits, key=SPLITS.index):
        corpus.splits[split] = _locate(splits[split], media, corpus.problems)
    return _require_items(corpus, path)


def read_msrvtt(captions: Path, media: MediaFolder) -> Corpus:
    """Read MSR-VTT; its JSON names the split of each clip (`train`, `validate`, `test`). Raises InputError."""
    content = read_json(captions)
    corpus = Corpus({})
    try:
        sentences: dict[str, list[str]] = {}
        for sentence in content["sentences"]:
            sentences.setdefault(str(sentence["video_id"]), []).append(str(sentence["caption"]))
        listed: dict[str, list[str]] = {}
        for video in content["videos"]:
            listed.setdefault(_msrvtt_split(video.get("split")), []).append(str(video["video_id"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{captions}: not MSR-VTT captions: {type(error).__name__} {error}") from None
    for split, names in listed.items():
        corpus.splits[split] = _make_items(names, sentences, media, corpus.problems, clips=True)
    return _require_items(corpus, captions)


def _msrvtt_split(name: object) -> str:
    """Map `train`, `validate`, `test` and the challenge's `public test` to a split; `train` if there is no name."""
    split = str(name or "train").lower()
    return "test" if "test" in split else "dev" if "val" in split else "train"


def _locate(images: Iterable[CocoImage], media: MediaFolder, problems: list[Problem]) -> list[Item]:
    """Items named by the path that exists in `media`; without one, by the most likely path."""
    captions: dict[str, list[str]] = {}
    for image in images:
        found = next((path for path in image.paths if path in media), None)
        found = found or next(filter(None, map(media.find, image.paths)), image.paths[0])
        if found in captions:
            problems.append(Problem(found, "duplicate item"))
        captions.setdefault(found, []).extend(image.captions)
    return _make_items(captions, captions, media, problems)


def _make_items(
    names: Iterable[str],
    captions_by_name: Mapping[str, list[str]],
    media: MediaFolder,
    problems: list[Problem],
    *,
    clips: bool = False,
) -> list[Item]:
    """The named items that exist and have captions; everything else is added to `problems`."""
    items: list[Item] = []
    seen: set[str] = set()
    for name in names:
        if name in seen:
            problems.append(Problem(name, "duplicate item"))
            continue
        seen.add(name)
        found = name if clips else media.find(name)
        if found is None or (clips and media.clip(name) is None):
            problems.append(Problem(name, "missing", f"not in {media.path}"))
            continue
        captions: dict[str, str] = {}
        for caption in captions_by_name.get(name, ()):
            text = normalize(caption)
            if not text:
                problems.append(Problem(name, "empty caption", repr(caption)))
            elif text in captions:
                problems.append(Problem(name, "duplicate caption", caption))
            else:
                # Remove line and paragraph separators: later outputs hold one caption per line.
                captions[text] = unicodedata.normalize("NFC", " ".join(caption.split()))
        if captions:
            items.append(Item(found, tuple(captions.values())))
        else:
            problems.append(Problem(name, "no caption"))
    return items


def _require_items(corpus: Corpus, *sources: Path) -> Corpus:
    """Return `corpus`. Raises InputError if a split has no items."""
    empty = [split for split, items in corpus.splits.items() if not items]
    if empty or not corpus.splits:
        names = ", ".join(empty) or "every"
        counts = ", ".join(f"{count} {why}" for why, count in corpus.counts().items()) or "nothing was listed"
        raise InputError(f"{', '.join(map(str, sources))}: the split {names} is empty ({counts})")
    return corpus
