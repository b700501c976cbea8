"""Short sentences: their grammar, and that they speak of objects that the yardstick finds again."""

from __future__ import annotations

import pytest

from streamcap.captioner.grounding.object_words import OBJECTS, find_mentions
from streamcap.captioner.grounding.short_sentence import PLACES, short_sentence


@pytest.mark.parametrize(
    ("objects", "scenes", "sentence"),
    [
        ([("car", False)], ["street"], "a car on a street"),
        ([("bus", True)], [], "buses"),
        ([("person", True), ("umbrella", False)], ["sky", "street"], "people and an umbrella on a street"),
        ([("skis", False)], ["snow"], "a pair of skis in the snow"),
        ([("oven", False)], ["room", "kitchen"], "an oven in a kitchen"),
    ],
)
def test_short_sentence(objects: list[tuple[str, bool]], scenes: list[str], sentence: str) -> None:
    assert short_sentence(objects, scenes) == sentence


def test_short_sentence_names_its_object_alone() -> None:
    for name in OBJECTS:
        for several in (False, True):
            mentions = find_mentions(short_sentence([(name, several)], ["street"]))
            # `orange` alone is mostly a color in captions.
            assert [one.classes for one in mentions] == [{name}] * (name != "orange" or several), name


def test_places_name_no_object() -> None:
    assert not [phrase for phrases in PLACES.values() for phrase in phrases if find_mentions(phrase)]
