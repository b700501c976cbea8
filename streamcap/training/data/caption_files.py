"""Parsers of published caption files: Flickr8k and Flickr30k, COCO, ClipCap's annotation list, Karpathy's splits."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamcap.errors import InputError

_NAME_COLUMNS = ("image", "image_name", "filename", "file_name")
_CAPTION_COLUMNS = ("caption", "comment", "raw")
# One line of Flickr30k's results.csv lacks its second bar.
_MISSING_BAR = re.compile(r"^(\d+)\s+(\S.*)$", re.DOTALL)
_COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017", "test2014", "test2015")
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}


@dataclass(slots=True)
class CaptionLines:
    """The content of a file with one caption per line."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    """Image name → captions, in the file's order."""
    malformed: list[tuple[int, str]] = field(default_factory=list)
    """Line number (from 1) and text of each line that could not be parsed."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image and its captions."""

    paths: tuple[str, ...]
    """Possible paths, relative to the image folder; the most likely first."""
    captions: tuple[str, ...]


def read_text(path: Path) -> str:
    """Read UTF-8 text with or without a byte order mark; line ends become `\\n`. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def read_lines(path: Path) -> list[str]:
    """Read lines that end with `\\n` only; U+2028 and similar characters do not end a line. Raises InputError."""
    return read_text(path).split("\n")


def read_captions(path: Path) -> CaptionLines:
    """Read a Flickr caption file: `name| number| caption`, `name#number TAB caption`, or CSV with a header.

    The first line decides which. Raises InputError if the file cannot be read.
    """
    text = read_text(path)
    first = text.lstrip("\n").partition("\n")[0]
    columns = _csv_columns(first)
    if columns is not None:
        return _read_csv(text, *columns)
    result = CaptionLines()
    has_tabs = "\t" in first and "#" in first.partition("\t")[0]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or (number == 1 and line.lower().startswith("image_name")):
            continue
        parsed = _parse_tab_line(line) if has_tabs else _parse_bar_line(line)
        if parsed is None:
            result.malformed.append((number, line))
        else:
            result.captions.setdefault(parsed[0], []).append(parsed[1])
    return result


def _parse_tab_line(line: str) -> tuple[str, str] | None:
    name, tab, caption = line.partition("\t")
    return (name.rpartition("#")[0].strip(), caption.strip()) if tab and "#" in name else None


def _parse_bar_line(line: str) -> tuple[str, str] | None:
    parts = [part.strip() for part in line.split("|", 2)]
    if len(parts) == 3:
        return parts[0], parts[2]
    match = _MISSING_BAR.match(parts[1]) if len(parts) == 2 else None
    return (parts[0], match[2].strip()) if match else None


def _csv_columns(header: str) -> tuple[int, int] | None:
    """Column indices of image name and caption; None if `header` is not a CSV header."""
    names = [name.strip().lower() for name in header.split(",")]
    name = next((names.index(one) for one in _NAME_COLUMNS if one in names), None)
    caption = next((names.index(one) for one in _CAPTION_COLUMNS if one in names), None)
    return None if name is None or caption is None else (name, caption)


def _read_csv(text: str, name_column: int, caption_column: int) -> CaptionLines:
    result = CaptionLines()
    rows = csv.reader(io.StringIO(text, newline=""))
    next(rows, None)
    try:
        for row in rows:
            if not row:
                continue
            if len(row) <= max(name_column, caption_column):
                result.malformed.append((rows.line_num, ",".join(row)))
            else:
                result.captions.setdefault(row[name_column].strip(), []).append(row[caption_column].strip())
    except csv.Error as error:
        result.malformed.append((rows.line_num, str(error)))
    return result


def read_json(path: Path) -> Any:
    """Read any JSON value. Raises InputError if the file cannot be read."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def is_karpathy(content: Any) -> bool:
    """Whether `content` is a `dataset_coco.json` (or `_flickr8k`, `_flickr30k`) of Karpathy's splits."""
    images = content.get("images") if isinstance(content, Mapping) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], Mapping) and "sentences" in images[0]


def parse_karpathy(content: Mapping[str, Any]) -> dict[str, list[CocoImage]]:
    """Images by split; `restval` goes into train, as is usual. Raises KeyError, TypeError or ValueError."""
    splits: dict[str, list[CocoImage]] = {}
    for image in content["images"]:
        split = _KARPATHY_SPLITS[str(image.get("split", "train"))]
        name = str(image["filename"])
        given_path = [f"{image['filepath']}/{name}"] if image.get("filepath") else []
        captions = tuple(_sentence(sentence) for sentence in image["sentences"])
        splits.setdefault(split, []).append(CocoImage((*given_path, *_coco_paths(name)), captions))
    return splits


def _sentence(sentence: Mapping[str, Any]) -> str:
    return str(sentence["raw"]) if "raw" in sentence else " ".join(map(str, sentence["tokens"]))


def parse_coco(content: Any) -> tuple[list[CocoImage], list[str]]:
    """Parse COCO's JSON or ClipCap's list of annotations. Returns the images, and ids missing in `images`.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    if isinstance(content, Sequence) and not isinstance(content, str):
        return _parse_annotations(content), []
    names = {str(image["id"]): str(image["file_name"]) for image in content["images"]}
    captions: dict[str, list[str]] = {image: [] for image in names}
    unknown = []
    for annotation in content["annotations"]:
        image = str(annotation["image_id"])
        if image in captions:
            captions[image].append(str(annotation["caption"]))
        else:
            unknown.append(image)
    return [CocoImage(_coco_paths(name), tuple(captions[image])) for image, name in names.items()], unknown


def _parse_annotations(annotations: Sequence[Any]) -> list[CocoImage]:
    captions_by_image: dict[int, list[str]] = {}
    for annotation in annotations:
        captions_by_image.setdefault(int(annotation["image_id"]), []).append(str(annotation["caption"]))
    images = []
    for image, captions in captions_by_image.items():
        old = [f"{folder}/COCO_{folder}_{image:012d}.jpg" for folder in ("train2014", "val2014")]
        new = [f"{folder}/{image:012d}.jpg" for folder in ("train2017", "val2017")]
        flat = [path.partition("/")[2] for path in (*old, new[0])]
        images.append(CocoImage((*old, *new, *flat), tuple(captions)))
    return images


def _coco_paths(name: str) -> tuple[str, ...]:
    return name, *(f"{folder}/{name}" for folder in _COCO_FOLDERS)
