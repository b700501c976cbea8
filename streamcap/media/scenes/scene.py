"""The content of a synthetic scene and its one true sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PLACES = {
    "grass": "on the grass",
    "road": "on a road",
    "sand": "on the sand",
    "snow": "in the snow",
    "water": "on the water",
    "room": "in a room",
}
COUNTS = {1: "a", 2: "two", 3: "three"}
_PAINTS = ("red", "blue", "yellow", "green", "purple", "white")
_LAND = ("grass", "road", "sand", "snow", "room")


@dataclass(frozen=True)
class Kind:
    """The grammar of one kind of subject: colors, actions, places, words."""

    one: str
    """For example "{color} dog"; the words after the article or number."""
    many: str
    colors: tuple[str, ...]
    actions: dict[str, tuple[str, str]]
    """Action → verb in singular and plural."""
    places: tuple[str, ...]
    preposition: str | None = None
    """Replaces the one of the place: "over" the grass, not "on"."""


KINDS: dict[str, Kind] = {
    "man": Kind(
        "man in a {color} shirt",
        "men in {color} shirts",
        _PAINTS,
        {"stand": ("stands", "stand"), "run": ("runs", "run"), "jump": ("jumps", "jump")},
        _LAND,
    ),
    "woman": Kind(
        "woman in a {color} dress",
        "women in {color} dresses",
        _PAINTS,
        {"stand": ("stands", "stand"), "run": ("runs", "run"), "jump": ("jumps", "jump")},
        _LAND,
    ),
    "dog": Kind(
        "{color} dog",
        "{color} dogs",
        ("brown", "black", "white"),
        {"sit": ("sits", "sit"), "run": ("runs", "run"), "jump": ("jumps", "jump")},
        _LAND,
    ),
    "cat": Kind(
        "{color} cat",
        "{color} cats",
        ("orange", "black", "grey"),
        {"sit": ("sits", "sit"), "run": ("runs", "run"), "jump": ("jumps", "jump")},
        _LAND,
    ),
    "horse": Kind(
        "{color} horse",
        "{color} horses",
        ("brown", "black", "white"),
        {"stand": ("stands", "stand"), "run": ("runs", "run")},
        ("grass", "road", "sand", "snow"),
    ),
    "bird": Kind(
        "{color} bird",
        "{color} birds",
        ("red", "blue", "yellow"),
        {"fly": ("flies", "fly")},
        ("grass", "road", "sand", "snow", "water"),
        preposition="over",
    ),
    "duck": Kind("{color} duck", "{color} ducks", ("yellow", "white"), {"swim": ("swims", "swim")}, ("water",)),
    "car": Kind(
        "{color} car",
        "{color} cars",
        _PAINTS,
        {"drive": ("drives", "drive")},
        ("grass", "road", "sand", "snow"),
    ),
    "bus": Kind("{color} bus", "{color} buses", _PAINTS, {"drive": ("drives", "drive")}, ("road", "snow")),
    "truck": Kind("{color} truck", "{color} trucks", _PAINTS, {"drive": ("drives", "drive")}, ("road", "sand", "snow")),
    "bicycle": Kind(
        "man",
        "men",
        _PAINTS,
        {"ride": ("rides a {color} bicycle", "ride {color} bicycles")},
        ("grass", "road", "sand"),
    ),
    "boat": Kind("{color} boat", "{color} boats", _PAINTS, {"sail": ("sails", "sail")}, ("water",)),
    "ball": Kind(
        "{color} ball",
        "{color} balls",
        _PAINTS,
        {"roll": ("rolls", "roll"), "bounce": ("bounces", "bounce"), "float": ("floats", "float")},
        (*_LAND, "water"),
    ),
}


def _allowed(kind: str, color: str, action: str, place: str) -> bool:
    """Whether the scene is easy to see: no subject in the color of its ground, floating balls on water only."""
    if (color, place) in {("white", "snow"), ("green", "grass"), ("yellow", "sand")}:
        return False
    return kind != "ball" or (action == "float") == (place == "water")


@dataclass(frozen=True)
class Scene:
    """One synthetic scene. `look` seeds what the sentence does not mention: light, distance, position, direction."""

    kind: str
    color: str
    count: int
    action: str
    place: str
    look: int = 0

    @property
    def sentence(self) -> str:
        """The true sentence: lower case, no punctuation, for example "two white dogs run on the grass"."""
        kind = KINDS[self.kind]
        noun = (kind.one if self.count == 1 else kind.many).format(color=self.color)
        verb = kind.actions[self.action][0 if self.count == 1 else 1].format(color=self.color)
        article = COUNTS[self.count]
        if article == "a" and noun[0] in "aeiou":
            article = "an"
        place = PLACES[self.place]
        if kind.preposition is not None:
            place = f"{kind.preposition} {place.split(' ', 1)[1]}"
        return f"{article} {noun} {verb} {place}"


def every_scene(look: int = 0) -> Iterator[Scene]:
    """All scenes of the grammar: one for each sentence."""
    for name, kind in KINDS.items():
        for color in kind.colors:
            for action in kind.actions:
                for place in kind.places:
                    if _allowed(name, color, action, place):
                        for count in COUNTS:
                            yield Scene(name, color, count, action, place, look)


def random_scene(rng: np.random.Generator, kinds: tuple[str, ...] = tuple(KINDS)) -> Scene:
    """A random scene: uniform over kinds, then over the options of the kind."""
    name = kinds[int(rng.integers(len(kinds)))]
    kind = KINDS[name]
    actions = tuple(kind.actions)
    while True:
        color = kind.colors[int(rng.integers(len(kind.colors)))]
        action = actions[int(rng.integers(len(actions)))]
        place = kind.places[int(rng.integers(len(kind.places)))]
        if _allowed(name, color, action, place):
            return Scene(name, color, int(rng.integers(1, 4)), action, place, int(rng.integers(2**31)))
