"""The tags that `mini`'s heads learn, and what is known of each on an image: objects, several of one, scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamcap.captioner.grounding.object_words import OBJECTS, find_mentions
from streamcap.training.evaluation.object_truth import AGREED_BOTH, Detection, ImageTruth


@dataclass(frozen=True, slots=True)
class Scene:
    """How a scene tag is known."""

    words: frozenset[str]
    """Of captions."""
    labels: frozenset[str] = frozenset()
    """Of labels.csv, without their kind."""
    areas: Mapping[str, float] | None = None
    """ADE20K classes and the share of the image from which on they mean the tag."""


def _scene(words: str, labels: str = "", **areas: float) -> Scene:
    return Scene(frozenset(words.split()), frozenset(labels.split()), areas or None)


SCENES: Final[dict[str, Scene]] = {
    "street": _scene(
        "street road sidewalk highway intersection alley", "street highway alley crosswalk downtown", road=0.08
    ),
    "building": _scene(
        "building buildings house church tower", "building_facade skyscraper buildings", building=0.25, house=0.2
    ),
    "sky": _scene("sky clouds", "", sky=0.15),
    "grass": _scene("grass grassy field lawn park", "pasture park", grass=0.15, field=0.15),
    "trees": _scene("trees tree forest woods wooded", "forest broadleaf forest_path", tree=0.25),
    "mountain": _scene("mountain mountains hill cliff rocks", "mountain mountain_snowy glacier valley", mountain=0.15),
    "water": _scene("water ocean sea lake river pool wave waves", "sea river coast lake", water=0.1, sea=0.1),
    "beach": _scene("beach sand sandy shore", "beach coast"),
    "snow": _scene("snow snowy", "mountain_snowy glacier snow"),
    "room": _scene("room floor indoors carpet hallway", "corridor hallway lobby room", floor=0.12, ceiling=0.08),
    "kitchen": _scene("kitchen", "kitchen"),
    "bedroom": _scene("bedroom", "bedroom hotel_room"),
    "bathroom": _scene("bathroom restroom", "bathroom"),
    "living room": _scene("living", "living_room"),
    "dining room": _scene("dining", "dining_room"),
    "office": _scene("office desk", "office home_office conference_room"),
    "store": _scene("store market shop restaurant", "shop shoe_shop supermarket bar"),
}
"""Tag to how it is known."""
CLASSES: Final = tuple(OBJECTS)
TAGS: Final = (*CLASSES, *(f"several {name}" for name in CLASSES), *SCENES)
"""All tags, in the order of the heads' outputs."""
_PLURALS: Final = frozenset(
    ("people", "men", "women", "children", "geese", "cattle", "crowd", "couple", "sheep", "oxen", "ladies", "family")
)
_INDEX: Final = {name: number for number, name in enumerate(TAGS)}
WEAK: Final = 0.3
"""Weight of an absent scene that only the silence of captions tells."""

Row = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Targets:
    """Of n images what is known: `values` (n, K) 0 or 1, `weights` (n, K) from 0, unknown, to 1."""

    values: npt.NDArray[np.float16]
    weights: npt.NDArray[np.float16]


def targets_of_image(
    truth: ImageTruth,
    labels: str,
    detections: Sequence[Sequence[Detection]],
    areas: Mapping[str, float] | None,
    captions: Sequence[str],
) -> tuple[Row, Row]:
    """Values and weights (K,) of one image. areas: of ADE20K's classes, None where nothing measured them."""
    values, weights = np.zeros(len(TAGS), np.float16), np.ones(len(TAGS), np.float16)
    counts = count_objects(labels, detections)
    for number, name in enumerate(CLASSES):
        several = number + len(CLASSES)
        if name in truth.present:
            values[number] = 1
            values[several] = counts[name] > 1
            weights[several] = counts[name] > 0
        elif name in truth.unknown:
            weights[[number, several]] = 0
    words = {word for caption in captions for word in caption.lower().split()}
    marked = {label.split(":")[1] for label in labels.split() if label.count(":")}
    scene_known = any(label.startswith(("scene:", "class:")) for label in labels.split())
    for name, scene in SCENES.items():
        number = _INDEX[name]
        values[number], weights[number] = _scene_target(scene, words, marked, areas, scene_known, bool(captions))
    return values, weights


def _scene_target(
    scene: Scene,
    words: Collection[str],
    marked: Collection[str],
    areas: Mapping[str, float] | None,
    scene_known: bool,
    captioned: bool,
) -> tuple[float, float]:
    if scene.words & set(words) or scene.labels & set(marked):
        return 1, 1
    if scene.areas and areas is not None:
        if any(areas.get(name, 0.0) >= share for name, share in scene.areas.items()):
            return 1, 1
        return 0, float(all(areas.get(name, 0.0) < 0.02 for name in scene.areas))
    if scene.areas is None and scene_known:
        return 0, 1
    return 0, WEAK if captioned else 0


def count_objects(labels: str, detections: Sequence[Sequence[Detection]]) -> Counter[str]:
    """How many of each class there are, as far as boxes say."""
    counts: Counter[str] = Counter()
    for found in detections:
        for name, boxes in Counter(one.name for one in found if one.score >= AGREED_BOTH).items():
            counts[name] = max(counts[name], boxes)
    for label in labels.split():
        marked, _, count = label.partition(":")
        name = marked.replace("_", " ")
        if count.isdigit() and name in OBJECTS:
            counts[name] = max(counts[name], int(count))
    return counts


def tags_of_text(sentence: str) -> list[int]:
    """The tags that a sentence tells, as indices into `TAGS`."""
    found: set[int] = set()
    for mention in find_mentions(sentence):
        if not mention.general:
            number = _INDEX[next(iter(mention.classes))]
            found.add(number)
            if mention.word in _PLURALS or (mention.word.endswith("s") and not mention.word.endswith(("ss", "bus"))):
                found.add(number + len(CLASSES))
    words = set(sentence.lower().split())
    found |= {_INDEX[name] for name, scene in SCENES.items() if scene.words & words}
    return sorted(found)


def targets_of_text(sentence: str) -> tuple[Row, Row]:
    """Values and weights (K,) of an image that a sentence describes in full, as it does a drawn scene."""
    values, weights = np.zeros(len(TAGS), np.float16), np.ones(len(TAGS), np.float16)
    values[tags_of_text(sentence)] = 1
    return values, weights


def sources_of(entry: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The ADE20K areas of a teacher's line, None where that teacher was not asked."""
    areas = entry.get("ade")
    return areas or None
