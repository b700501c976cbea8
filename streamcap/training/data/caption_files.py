"""Parsers of published caption files: Flickr8k and Flickr30k, COCO, ClipCap's annotation list, Karpathy's splits."""

from __future__ import annotations

import codecs
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
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = (",", "\t", ";")
_MAX_ROW_LINES = 3
"""A quotation mark of CSV that is open for longer is not meant as one."""
_FILE_KEYS = ("image", "file_name", "filename", "image_path")
_TEXT_KEYS = ("caption", "captions", "text")
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
    """Read UTF-8 text, or UTF-16 with its byte order mark; line ends become `\\n`. Raises InputError.

    Byte order marks are removed everywhere: files are often joined from others.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Read lines that end with `\\n` only; U+2028 and similar characters do not end a line. Raises InputError."""
    return read_text(path).split("\n")


def read_captions(path: Path) -> CaptionLines:
    """Read a Flickr caption file: `name| number| caption`, `name#number TAB caption`, or CSV or TSV with a header.

    The first line decides which. Raises InputError if the file cannot be read.
    """
    text = read_text(path)
    first = text.lstrip("\n").partition("\n")[0]
    columns = _csv_columns(first)
    if columns is not None:
        return _read_csv(text, columns)
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


@dataclass(frozen=True, slots=True)
class _Columns:
    """The header of a CSV file."""

    separator: str
    name: int
    caption: int
    count: int


def _csv_columns(header: str) -> _Columns | None:
    """The columns of image name and caption; None if `header` is not a CSV header."""
    for separator in _SEPARATORS:
        names = [name.strip().strip('"').lower() for name in header.split(separator)]
        name = next((names.index(one) for one in _NAME_COLUMNS if one in names), None)
        caption = next((names.index(one) for one in _CAPTION_COLUMNS if one in names), None)
        if name is not None and caption is not None:
            return _Columns(separator, name, caption, len(names))
    return None


def _read_csv(text: str, columns: _Columns) -> CaptionLines:
    result = CaptionLines()
    lines = text.split("\n")
    at = next((number for number, line in enumerate(lines) if line.strip()), 0) + 1
    while at < len(lines):
        row, used = _csv_row(lines, at, columns)
        if row is None:
            result.malformed.append((at + 1, lines[at]))
        elif row:
            result.captions.setdefault(row[0], []).append(row[1])
        at += used
    return result


def _csv_row(lines: Sequence[str], at: int, columns: _Columns) -> tuple[tuple[str, str] | tuple[()] | None, int]:
    """Name and caption of the row that starts at line `at`, and its number of lines.

    Empty for a blank line, None for one that cannot be parsed.
    """
    if not lines[at].strip():
        return (), 1
    for used in range(1, _MAX_ROW_LINES + 1):
        # Strict: an open quotation mark at the end is an error.
        row = _parse_row("\n".join(lines[at : at + used]), columns.separator, strict=True)
        if row is not None:
            break
    else:
        # A quotation mark that is not CSV's: the line stands for itself.
        used, row = 1, _parse_row(lines[at], columns.separator, strict=False)
    if row is None or len(row) <= max(columns.name, columns.caption):
        return None, 1
    # A caption with commas that nobody quoted.
    last = columns.caption == columns.count - 1
    caption = columns.separator.join(row[columns.caption :]) if last else row[columns.caption]
    return (row[columns.name].strip(), caption.strip()), used


def _parse_row(text: str, separator: str, *, strict: bool) -> list[str] | None:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict))
    except csv.Error:
        return None


def read_json_values(path: Path) -> Any:
    """Read any JSON value, or JSON lines as a list. Raises InputError if the file cannot be read."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        try:
            values = [json.loads(line) for line in lines]
        except ValueError:
            raise InputError(f"{path}: cannot be read ({error})") from None
        if not values:
            raise InputError(f"{path}: the file is empty") from None
        return values


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
    if isinstance(content, Mapping) and "images" not in content and any(key in content for key in _TEXT_KEYS):
        # JSON lines of one line.
        content = [content]
    if isinstance(content, Sequence) and not isinstance(content, str):
        return _parse_annotations(content), []
    names = {_id(image["id"]): str(image["file_name"]) for image in content["images"]}
    captions: dict[str, list[str]] = {image: [] for image in names}
    unknown = []
    for annotation in content["annotations"]:
        image = _id(annotation["image_id"])
        if image in captions:
            captions[image].append(str(annotation["caption"]))
        else:
            unknown.append(image)
    return [CocoImage(_coco_paths(name), tuple(captions[image])) for image, name in names.items()], unknown


def _parse_annotations(annotations: Sequence[Any]) -> list[CocoImage]:
    """Images of ClipCap's list, by id, or of a list that names their files (BLIP's, JSON lines)."""
    captions_by_paths: dict[tuple[str, ...], list[str]] = {}
    for annotation in annotations:
        file = next((annotation[key] for key in _FILE_KEYS if isinstance(annotation.get(key), str)), None)
        paths = _id_paths(_id(annotation["image_id"])) if file is None else _coco_paths(file)
        text = next((annotation[key] for key in _TEXT_KEYS if key in annotation), None)
        if text is None:
            raise KeyError("caption")
        captions_by_paths.setdefault(paths, []).extend(map(str, text if isinstance(text, list) else [text]))
    return [CocoImage(paths, tuple(captions)) for paths, captions in captions_by_paths.items()]


def _id(value: Any) -> str:
    """An id as text; equal for 7, 7.0, "7" and "000000000007"."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text.lstrip("0") or "0" if text.isdecimal() else text


def _id_paths(image: str) -> tuple[str, ...]:
    padded = image.zfill(12)
    old = [f"{folder}/COCO_{folder}_{padded}.jpg" for folder in ("train2014", "val2014")]
    new = [f"{folder}/{padded}.jpg" for folder in ("train2017", "val2017")]
    flat = [path.partition("/")[2] for path in (*old, new[0])]
    return (*old, *new, *flat, f"{image}.jpg")


def _coco_paths(name: str) -> tuple[str, ...]:
    return name, *(f"{folder}/{name}" for folder in _COCO_FOLDERS)
