"""Captions made of what is known of an image, for images that nobody has captioned: "three cars on a street"."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from streamcap.captioner.grounding.object_words import OBJECTS
from streamcap.captioner.grounding.short_sentence import PLACES, one_of, plural
from streamcap.training.evaluation.object_truth import Detection, ImageTruth
from streamcap.training.mini.grounding.data.tags import count_objects

_NUMBERS = {2: "two", 3: "three", 4: "four"}
_SCENERY: dict[str, tuple[str, ...]] = {
    "street": ("a street", "a city street", "a road"),
    "building": ("a building", "a large building", "buildings"),
    "trees": ("trees", "a forest with trees", "many trees"),
    "mountain": ("a mountain", "mountains"),
    "water": ("the water", "a body of water"),
    "grass": ("a field of grass", "a grassy field"),
    "sky": ("the sky", "a cloudy sky"),
    "room": ("a room", "the inside of a room"),
    "snow": ("snow", "a snowy mountain"),
}


def counted(name: str, count: int) -> str:
    """`a car`, `two cars`, `several cars`."""
    if count < 2 or name in ("skis", "scissors"):
        return one_of(name)
    return f"{_NUMBERS.get(count, 'several')} {plural(name)}"


def pseudo_captions(
    truth: ImageTruth,
    labels: str,
    detections: Sequence[Sequence[Detection]],
    scenes: Sequence[str],
    rng: random.Random,
    count: int = 6,
) -> list[str]:
    """Up to `count` different captions of what is present; empty where too little is known to say anything.

    scenes: the scene tags that hold.
    """
    ordered = _by_size(truth, detections)
    counts = count_objects(labels, detections)
    things = [counted(name, counts[name]) for name in ordered[:3]]
    places = [name for name in PLACES if name in scenes]
    made = [_one(things, places, rng) for _ in range(3 * count if things or places else 0)]
    return list(dict.fromkeys(one for one in made if one))[:count]


def _one(things: Sequence[str], places: Sequence[str], rng: random.Random) -> str:
    place = rng.choice(PLACES[places[0]]) if places else ""
    if not things:
        scenery = [name for name in places if name in _SCENERY]
        if places[0] not in _SCENERY or not scenery:
            return f"{rng.choice(('a', 'the inside of a', 'a view of a'))} {places[0]}"
        first = rng.choice(_SCENERY[scenery[0]])
        if len(scenery) > 1 and rng.random() < 0.6:
            return f"{first} and {rng.choice(_SCENERY[scenery[1]])}"
        return rng.choice((first, f"a view of {first}"))
    shown = list(things[: rng.choice((1, 1, 2, 2, 3))])
    if len(shown) == 1:
        subject = rng.choice((shown[0], shown[0], f"there is {shown[0]}"))
    elif len(shown) == 2:
        subject = rng.choice(
            (f"{shown[0]} and {shown[1]}", f"{shown[0]} with {shown[1]}", f"{shown[0]} next to {shown[1]}")
        )
    else:
        subject = f"{shown[0]} {shown[1]} and {shown[2]}"
    return f"{subject} {place}".strip() if rng.random() < 0.8 else subject


def _by_size(truth: ImageTruth, detections: Sequence[Sequence[Detection]]) -> list[str]:
    """The present classes, the main one first, then by the area of their largest box."""
    areas: Mapping[str, float] = {
        name: max((one.area for found in detections for one in found if one.name == name), default=0.0)
        for name in truth.present
    }
    return sorted(truth.present, key=lambda name: (name != truth.main, -areas[name], list(OBJECTS).index(name)))
