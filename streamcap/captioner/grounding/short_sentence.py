"""Short sentences of known things and a place: "a car on a road", "bottles on a table"."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

_PLURALS: Final = {
    "person": "people",
    "sheep": "sheep",
    "knife": "knives",
    "skis": "skis",
    "scissors": "scissors",
    "bus": "buses",
    "couch": "couches",
    "bench": "benches",
    "sandwich": "sandwiches",
    "toothbrush": "toothbrushes",
    "wine glass": "wine glasses",
    "mouse": "computer mice",
    "broccoli": "broccoli",
}
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "kitchen": ("in a kitchen", "in the kitchen"),
    "bedroom": ("in a bedroom",),
    "bathroom": ("in a bathroom",),
    "living room": ("in a living room",),
    "dining room": ("in a dining room",),
    "office": ("in an office",),
    "store": ("in a store",),
    "beach": ("on a beach", "on the beach"),
    "snow": ("in the snow",),
    "street": ("on a street", "on the road", "on a city street"),
    "water": ("near the water", "by the water"),
    "grass": ("on the grass", "in a field"),
    "mountain": ("in front of a mountain", "near mountains"),
    "trees": ("near trees", "in front of trees"),
    "building": ("in front of a building", "near a building"),
    "room": ("in a room", "inside a room"),
    "sky": ("under the sky", "against the sky"),
}
"""Scene to phrases that place a thing in it; a scene that says more of where something is comes before the others."""


def article(noun: str) -> str:
    """`noun` with a or an."""
    return f"{'an' if noun[:1] in 'aeiou' and not noun.startswith(('uni', 'euph')) else 'a'} {noun}"


def plural(name: str) -> str:
    """Several of an object class."""
    return _PLURALS.get(name, f"{name}s")


def one_of(name: str) -> str:
    """One of an object class: `a car`, `a pair of skis`."""
    return f"a pair of {name}" if name in ("skis", "scissors") else article(name)


def short_sentence(objects: Sequence[tuple[str, bool]], scenes: Collection[str]) -> str:
    """What is there, and where. objects: class names, at least one, each with whether there are several of it. scenes:
    keys of `PLACES`; the one that says most is named."""
    things = " and ".join(plural(name) if several else one_of(name) for name, several in objects)
    place = next((phrases[0] for scene, phrases in PLACES.items() if scene in scenes), None)
    return things if place is None else f"{things} {place}"
