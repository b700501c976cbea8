"""CIDEr-D equals pycocoevalcap's, and the end token penalizes unfinished captions."""

from __future__ import annotations

import random

import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer

from streamcap.training.evaluation.cider import END, CiderD

REFERENCES = [
    ["a black dog running through green grass", "a dog runs in the grass", "the black dog is on the grass"],
    ["two men are playing football", "men play football on a green field", "a football game"],
    ["a little girl jumps in a red dress", "the girl in the red dress is jumping"],
    ["a cyclist rides down a hill", "a man on a mountain bike", "a man rides a bicycle down a path"],
    ["a brown dog swims in the water with a stick", "the dog has a stick in its mouth", "dog"],
]
CAPTIONS = [
    "a black dog runs through the grass",
    "two men play football on a field on a field",
    "a girl in a red dress is jumping",
    "a unicorn rides a bicycle",
    "dog",
]


def reference_scores(captions: list[str]) -> list[float]:
    scorer = CiderScorer(n=4, sigma=6.0)
    for caption, several in zip(captions, REFERENCES, strict=True):
        scorer += (caption, several)
    return list(scorer.compute_score()[1])


def test_reward_equals_pycocoevalcap_cider() -> None:
    scorer = CiderD([[reference.split() for reference in several] for several in REFERENCES])
    words = sorted({word for several in REFERENCES for reference in several for word in reference.split()})
    rng = random.Random(1)
    random_captions = [[" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in REFERENCES] for _ in range(20)]
    for captions in (CAPTIONS, *random_captions):
        scores = [scorer.score(image, caption.split()) for image, caption in enumerate(captions)]
        assert scores == pytest.approx(reference_scores(captions), abs=1e-6)


def test_end_token_penalizes_truncated_caption() -> None:
    scorer = CiderD([[[*reference.split(), END] for reference in several] for several in REFERENCES])
    phrase = "a black dog runs in the grass"
    complete = scorer.score(0, [*phrase.split(), END])
    unfinished = scorer.score(0, [*f"{phrase} in the".split(), END])
    without_end = scorer.score(0, phrase.removesuffix(" grass").split())
    assert complete > unfinished > 0
    assert complete > without_end


def test_empty_caption_scores_zero() -> None:
    assert CiderD([[["a", "dog"]], [["a", "cat"]]]).score(0, []) == 0
