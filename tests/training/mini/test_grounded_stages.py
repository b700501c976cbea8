"""Stages on stored grids: which grids they see, and what a caption is worth to the critic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from streamcap.captioner import registry
from streamcap.training.mini.augment import crop, distant_boxes, whole
from streamcap.training.mini.grounding.critic import CriticSettings, Reward
from streamcap.training.mini.grounding.data.tags import CLASSES, TAGS
from streamcap.training.mini.grounding.stored import StoredGrids
from streamcap.training.mini.grounding.trainer import ImageSet
from streamcap.training.mini.sampling import Sample


def test_views_are_of_the_images_asked_for() -> None:
    images = np.array([0, 0, 0, 2, 5, 5])
    grids = StoredGrids(images[:, None, None].astype(np.float16), images, np.zeros((0, 1, 1), np.float16), images[:0])
    for _ in range(20):
        assert grids.views(np.array([0, 2, 5, 5])).flatten().tolist() == [0, 2, 5, 5]


@pytest.fixture
def reward() -> tuple[Reward, Tokenizer]:
    tokenizer = Tokenizer.from_file(str(registry.find_checkpoint("mini") / "tokenizer.json"))
    captions = ["a dog runs in the snow", "a man sits on a bench"]
    values, weights = np.zeros((2, len(TAGS)), np.float16), np.ones((2, len(TAGS)), np.float16)
    values[0, CLASSES.index("dog")] = 1
    weights[0, CLASSES.index("car")] = 0.3  # nobody looked for it
    anything: Any = np.zeros(2)
    images = ImageSet(
        anything,
        values,
        weights,
        anything,
        [[tokenizer.encode(one).ids] for one in captions],
        np.array([True, False]),
        np.array([CLASSES.index("dog"), -1]),
        np.ones(2),
    )
    settings = CriticSettings(
        steps=1, real_batch=2, synthetic_batch=1, text_batch=1, false_penalty=0.5, main_bonus=0.25, pseudo_cider=0.5
    )
    return Reward(images, tokenizer, settings), tokenizer


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("a dog in the snow", (0, True)),
        ("a cat and a dog", (1, True)),
        ("a man and a woman in the snow", (2, False)),
        ("an animal in a car", (0, False)),
        ("the snow", (0, False)),
    ],
)
def test_reward_counts_false_objects_and_the_main_one(reward: Any, text: str, truth: tuple[int, bool]) -> None:
    judge, _ = reward
    assert judge.truth(0, text) == truth


def test_reward_is_cider_less_what_is_false(reward: Any) -> None:
    judge, tokenizer = reward
    right, cut, wrong = (
        judge.score(0, Sample(tokenizer.encode(text).ids, stopped))
        for text, stopped in (("a dog runs in the snow", True), ("a dog runs in the snow", False), ("a cat", True))
    )
    assert right == pytest.approx(10 + 0.25, abs=1e-6)
    made = judge.score(1, Sample(tokenizer.encode("a man sits on a bench").ids, True))
    assert made == pytest.approx(0.5 * 10 - 2 * 0.5, abs=1e-6), "two objects that nobody saw"
    assert cut < right
    assert wrong < 0


def test_turned_crop_is_as_large() -> None:
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    pixels[:, 28:36, 8:56] = 255
    seen = crop(pixels, whole(1), torch.zeros(1, dtype=torch.bool), 64, torch.tensor([0.5]))[0, 0] > 0.5
    rows, columns = (torch.nonzero(seen.any(side)).flatten() for side in (1, 0))
    assert int(seen.sum()) == pytest.approx(8 * 48, rel=0.05)
    assert len(rows) > 25 and len(columns) < 48


def test_distant_boxes_show_all_of_an_image() -> None:
    boxes = distant_boxes(50, 1.7)
    assert bool((boxes[:, :2] <= 0).all()) and bool((boxes[:, 2:] >= 1 - 1e-6).all())
    assert float((boxes[:, 2:] - boxes[:, :2]).max()) <= 1.7 + 1e-5
