"""Rendered views and borrowed captions: what they say agrees with what is shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamcap.captioner.grounding.object_words import find_mentions
from streamcap.training.data.arrays import JoinedArrays
from streamcap.training.mini.grounding.data.borrowed_captions import CaptionLibrary
from streamcap.training.mini.grounding.data.renders.views import render, with_renders
from streamcap.training.mini.grounding.data.tags import CLASSES, TAGS
from streamcap.training.mini.grounding.trainer import ImageSet


def test_captions_of_renders_name_what_is_there() -> None:
    views = render(40, 32, seed=3)
    assert {name for view in views for name in view.objects} >= {"car", "bottle"}
    assert any(not view.objects for view in views)
    for view in views:
        assert view.pixels.shape == (32, 32, 3)
        for caption in view.captions:
            named = {name for mention in find_mentions(caption) for name in mention.classes}
            assert named == set(view.objects)
            assert not named & view.unknown


def test_renders_of_a_seed_are_the_same() -> None:
    first, again = render(4, 32, seed=5), render(4, 32, seed=5)
    assert [one.captions for one in first] == [one.captions for one in again]
    assert all(np.array_equal(one.pixels, two.pixels) for one, two in zip(first, again, strict=True))


def test_renders_follow_the_images() -> None:
    anything: Any = np.zeros((2, 4), np.float16)
    values = np.zeros((2, len(TAGS)), np.float16)
    images = ImageSet(
        np.full((2, 32, 32, 3), 9, np.uint8), values, values + 1, anything, [[], []], np.array([True, False]),
        np.array([-1, -1]), np.ones(2),
    )  # fmt: skip
    views = render(6, 32, seed=3)
    joined = with_renders(images, views, lambda several: [[1] for _ in several])
    assert (len(joined.pixels), joined.rendered, joined.chances.tolist()) == (8, 6, [1.0] * 2 + [0.0] * 6)
    for row, view in enumerate(views, 2):
        assert {CLASSES[number] for number in joined.values[row, : len(CLASSES)].nonzero()[0]} == set(view.objects)
        assert np.array_equal(joined.pixels[np.array([row])][0], view.pixels)


def test_joined_arrays_read_any_rows() -> None:
    joined = JoinedArrays(np.arange(6).reshape(3, 2), np.arange(6, 10).reshape(2, 2))
    assert joined[np.array([4, 0, 3])].tolist() == [[8, 9], [0, 1], [6, 7]]


SENTENCES = [f"a dog runs on the grass number {k}" for k in range(6)]
SENTENCES += [f"a dog and a cat sleep on a couch {k}" for k in range(6)]
SENTENCES += ["an animal stands on the grass", "a cat"]


def borrow(present: set[str], main: str | None = None) -> list[str]:
    values, weights = np.zeros(len(TAGS), np.float16), np.ones(len(TAGS), np.float16)
    values[[TAGS.index(name) for name in present]] = 1
    return CaptionLibrary(SENTENCES).borrow(values, weights, -1 if main is None else CLASSES.index(main))


def test_borrowed_captions_name_nothing_absent() -> None:
    assert sorted(borrow({"dog", "grass"})) == SENTENCES[:6]
    assert set(borrow({"dog", "cat", "couch"})) & set(SENTENCES[6:12])


def test_borrowed_captions_name_the_main_object() -> None:
    assert borrow({"dog", "grass", "cat"}, main="cat") == [], "one sentence alone is too few"
    assert borrow(set()) == []
