"""Object truth: whether the object words of captions are true of their images.

An object is *present* in an image where a person's label or caption names it, or where the detectors agree on it: both
see it at `AGREED_BOTH` or more, or one of them at `AGREED_ONE` or more. It is *unknown* where a detector sees it less
surely. Everything else is *absent*. A source whose labels are complete for some classes (`COMPLETE`) decides those
alone. An object word is true where one of its classes is present, not counted where one is unknown, and else false.

The false words of a caption are what CHAIR counts (Rohrbach et al. 2018, "Object Hallucination in Image Captioning").
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamcap.captioner.grounding.object_words import OBJECTS, Mention, find_mentions
from streamcap.errors import InputError
from streamcap.training.evaluation.held_out import source_of

AGREED_BOTH: Final = 0.35
AGREED_ONE: Final = 0.65
SEEN: Final = 0.25
"""Detections with a lower score are ignored."""
COMPLETE: Final[dict[str, frozenset[str]]] = {"voc5": frozenset(("car", "person", "cat", "train", "bus"))}
"""By source, the classes of which people have marked every instance."""

_ALIASES: Final[dict[str, str]] = {
    "airplanes": "airplane",
    "boston_bull": "dog",
    "car_side": "car",
    "faces": "person",
    "freight_car": "train",
    "granny_smith": "apple",
    "humans": "person",
    "kite": "bird",
    "motorbikes": "motorcycle",
    "orange": "orange",
    "passenger_car": "train",
    "peds": "person",
    "red_apple": "apple",
    "satsumas": "orange",
}
"""Label names that captions do not use, or use in another meaning."""
_NO_OBJECT: Final = frozenset(
    (
        "cassette_player", "cd_player", "custard_apple", "dog_bed", "dutch_oven", "dvd_player", "game_table",
        "head_phone", "head_phones", "lesser_panda", "madagascar_cat", "pay-phone", "pen_cup", "ping_pong_racket",
        "pitcher", "plane", "pool_table", "sea_horse", "table_runner", "tape_player", "toy_car", "trolley",
    )
)  # fmt: skip
"""Label names that are no object, although their last word is one."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What one detector sees; `box` is left, top, right, bottom in shares of the image's sides."""

    name: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        """Share of the image that the box covers."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)


@dataclass(frozen=True, slots=True)
class ImageTruth:
    """What is known of one image's objects."""

    present: frozenset[str]
    unknown: frozenset[str] = frozenset()
    main: str | None = None
    """The main object of the image; None if not known."""

    def verdict(self, mention: Mention) -> bool | None:
        """Whether the object that the word names is in the image; None: not known."""
        if mention.classes & self.present:
            return True
        return None if mention.classes & self.unknown else False


@dataclass(frozen=True, slots=True)
class ObjectTruth:
    """Object truth of many captions."""

    images: int
    words_true: int
    words_false: int
    words_unknown: int
    images_false: int
    """With at least one false object word."""
    mains: int
    """Images with a known main object."""
    mains_named: int

    def report(self) -> dict[str, Any]:
        """The shares as JSON values; None where nothing was counted."""
        return {
            "images": self.images,
            "object_words": self.words_true + self.words_false,
            "object_words_unknown": self.words_unknown,
            "precision": _share(self.words_true, self.words_true + self.words_false),
            "images_with_false_object": _share(self.images_false, self.images),
            "main_objects": self.mains,
            "main_object_named": _share(self.mains_named, self.mains),
        }


def judge_captions(captions: Sequence[str], truths: Sequence[ImageTruth]) -> ObjectTruth:
    """Count the true and false object words of each caption i by the truth of image i."""
    words: Counter[bool | None] = Counter()
    wrong = mains = named = 0
    for caption, truth in zip(captions, truths, strict=True):
        mentions = find_mentions(caption)
        verdicts = [truth.verdict(mention) for mention in mentions]
        words.update(verdicts)
        wrong += False in verdicts
        mains += truth.main is not None
        named += any(truth.main in mention.classes and not mention.general for mention in mentions)
    return ObjectTruth(len(captions), words[True], words[False], words[None], wrong, mains, named)


def is_correct(caption: str, truth: ImageTruth) -> bool | None:
    """Whether no object word of the caption is false; None if that depends on an unknown object."""
    verdicts = [truth.verdict(mention) for mention in find_mentions(caption)]
    return False if False in verdicts else None if None in verdicts else True


def truth_of_captions(references: Iterable[str]) -> ImageTruth:
    """The objects that captions by people name.

    The main object is the most frequent one, if at least half name it; of equally frequent ones the first by name.
    """
    each = [_named(reference) for reference in references]
    counts = Counter(name for names in each for name in names)
    # Not `most_common`: the order of equally frequent names would be that of a set, another one in each process.
    main = max(sorted(counts), key=lambda name: counts[name], default=None)
    return ImageTruth(frozenset(counts), main=main if main is not None and 2 * counts[main] >= len(each) else None)


def truth_of_image(
    source: str,
    labels: str,
    detections: Sequence[Sequence[Detection]] = (),
    captions: Iterable[str] = (),
) -> ImageTruth:
    """The truth of one image, from all sources.

    source: see `held_out.source_of`. labels: a field of labels.csv. detections: one list per detector. captions: by
    people.
    """
    marked = label_classes(labels)
    agreed, unconfirmed = combine(detections)
    captioned = frozenset().union(*map(_named, captions))
    complete = COMPLETE.get(source, frozenset())
    present = marked | captioned | (agreed - complete)
    unknown = (unconfirmed - complete) - present
    return ImageTruth(present, unknown, _main(labels, marked, present, detections))


def combine(detections: Sequence[Sequence[Detection]]) -> tuple[frozenset[str], frozenset[str]]:
    """The classes that the detectors agree on, and those that are seen less surely."""
    best: Counter[str] = Counter()
    both: Counter[str] = Counter()
    for found in detections:
        for name in {one.name for one in found}:
            score = max(one.score for one in found if one.name == name)
            best[name] = max(best[name], score)  # type: ignore[assignment]
            both[name] += score >= AGREED_BOTH
    agreed = frozenset(name for name, score in best.items() if score >= AGREED_ONE or both[name] > 1)
    return agreed, frozenset(name for name, score in best.items() if score >= SEEN) - agreed


def label_classes(labels: str) -> frozenset[str]:
    """The COCO classes that labels such as `car:2 seg:tree class:fruit/apple/gala` name; other labels are ignored."""
    return frozenset().union(*(_label_class(label) for label in labels.split()))


def read_truths(
    labels: Path, detections: Path | None = None, captions: Mapping[str, Sequence[str]] | None = None
) -> dict[str, ImageTruth]:
    """The truth of every image of a labels.csv (`image_name|source|split|labels`).

    detections: a teachers.jsonl or teachers.jsonl.gz. captions: by image name. Raises InputError with the line at
    fault.
    """
    seen = read_detections(detections) if detections is not None else {}
    truths: dict[str, ImageTruth] = {}
    for name, marked in read_labels(labels).items():
        truths[name] = truth_of_image(source_of(name), marked, seen.get(name, ()), (captions or {}).get(name, ()))
    return truths


def read_labels(path: Path) -> dict[str, str]:
    """The `labels` field of every image of a labels.csv. Raises InputError."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream, delimiter="|", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not rows or rows[0][:1] != ["image_name"]:
        raise InputError(f"{path}: its first line is not image_name|source|split|labels")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise InputError(f"{path}:{number}: {len(row)} fields, not {len(rows[0])}")
    return {row[0]: row[3] for row in rows[1:]}


def read_detections(path: Path) -> dict[str, tuple[list[Detection], ...]]:
    """What each detector of a teachers.jsonl(.gz) sees, by image. Raises InputError with the line at fault."""
    found: dict[str, tuple[list[Detection], ...]] = {}
    for number, entry in enumerate(read_json_lines(path), 1):
        try:
            found[entry["image"]] = tuple(
                [
                    Detection(row[0], float(row[1]), tuple(row[2:6]))
                    for row in entry.get(detector, ())
                    if row[0] in OBJECTS
                ]
                for detector in ("yolox", "ssd")
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{number}: not a teacher's line ({type(error).__name__} {error})") from None
    return found


def read_json_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file, one a line. Raises InputError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _named(caption: str) -> frozenset[str]:
    return frozenset(name for mention in find_mentions(caption) if not mention.general for name in mention.classes)


def _label_class(label: str) -> frozenset[str]:
    plain = re.sub(r":\d+$", "", label)
    kind, _, value = plain.rpartition(":")
    if kind == "scene":
        return frozenset()
    value = value.lower()
    if value == "bicyclist":
        return frozenset(("person", "bicycle"))
    return next((found for part in value.split("/")[:2] if (found := _noun_class(part))), frozenset())


def _noun_class(name: str) -> frozenset[str]:
    if name in _ALIASES:
        return frozenset((_ALIASES[name],))
    words = [] if name in _NO_OBJECT else re.split(r"[\W_]+", name)
    # The last words of a name are its noun: `bullet_train`, but not `car_wheel`.
    for length in (2, 1):
        noun = " ".join(words[-length:])
        mentions = find_mentions(noun)
        if len(mentions) == 1 and mentions[0].word == noun and not mentions[0].general:
            return mentions[0].classes
    return frozenset()


def _main(
    labels: str, marked: frozenset[str], present: frozenset[str], detections: Sequence[Sequence[Detection]]
) -> str | None:
    """The one labeled class, else the present class with the largest box."""
    if labels.startswith("class:") and len(marked) == 1:
        return next(iter(marked))
    areas: Counter[str] = Counter()
    for one in (one for found in detections for one in found):
        if one.name in present and one.score >= AGREED_BOTH:
            areas[one.name] = max(areas[one.name], one.area)  # type: ignore[assignment]
    if areas:
        return max(sorted(areas), key=lambda name: areas[name])
    return next(iter(marked)) if len(marked) == 1 else None


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
