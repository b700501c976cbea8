"""Scores compared with independent implementations of the formulas in the papers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from streamcap.errors import InputError
from streamcap.training.evaluation.scores import score

CAPTIONS = [
    "a black dog runs through the grass",
    "two men play football on a field",
    "a girl in a red dress is jumping",
    "a man rides a bicycle",
    "a dog",
]
REFERENCES = [
    ["A black dog running through green grass.", "a dog runs in the grass", "the black dog is on the grass"],
    ["Two men are playing football.", "men play football on a green field", "a football game"],
    ["a little girl jumps in a red dress", "The girl in the red dress is jumping."],
    ["a cyclist rides down a hill", "a man on a mountain bike", "a man rides a bicycle down a path"],
    ["a brown dog swims in the water with a stick", "the dog has a stick in its mouth"],
]


def words(text: str) -> list[str]:
    return text.lower().replace(".", "").split()


def grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu(n: int) -> float:
    """Papineni et al. 2002: clipped precisions, geometric mean, brevity penalty with the closest reference length."""
    logs, caption_length, reference_length = 0.0, 0, 0
    for size in range(1, n + 1):
        hits = total = 0
        for caption, references in zip(CAPTIONS, REFERENCES, strict=True):
            counts = grams(words(caption), size)
            max_counts: Counter[tuple[str, ...]] = Counter()
            for reference in references:
                max_counts |= grams(words(reference), size)
            hits += sum((counts & max_counts).values())
            total += sum(counts.values())
        logs += math.log(hits / total) / n
    for caption, references in zip(CAPTIONS, REFERENCES, strict=True):
        length = len(words(caption))
        caption_length += length
        reference_length += min((abs(len(words(r)) - length), len(words(r))) for r in references)[1]
    return math.exp(logs) * min(1.0, math.exp(1 - reference_length / caption_length))


def rouge_l() -> float:
    """Lin 2004, as in the COCO tools: best precision and best recall over references, beta 1.2."""
    total = 0.0
    for caption, references in zip(CAPTIONS, REFERENCES, strict=True):
        mine = words(caption)
        precision = recall = 0.0
        for reference in references:
            theirs = words(reference)
            table = np.zeros((len(mine) + 1, len(theirs) + 1), int)
            for i, one in enumerate(mine):
                for j, other in enumerate(theirs):
                    table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
            precision = max(precision, table[-1, -1] / len(mine))
            recall = max(recall, table[-1, -1] / len(theirs))
        total += (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    return total / len(CAPTIONS)


def cider() -> list[float]:
    """Vedantam et al. 2015, CIDEr-D: tf-idf cosine with clipping, and a Gaussian penalty on the length, sigma 6."""
    documents: Counter[tuple[str, ...]] = Counter()
    for references in REFERENCES:
        documents.update({gram for r in references for n in range(1, 5) for gram in grams(words(r), n)})

    def vector(tokens: list[str], n: int) -> dict[tuple[str, ...], float]:
        max_idf = math.log(len(REFERENCES))
        return {gram: c * (max_idf - math.log(max(1, documents[gram]))) for gram, c in grams(tokens, n).items()}

    out = []
    for caption, references in zip(CAPTIONS, REFERENCES, strict=True):
        total = 0.0
        for reference in references:
            mine, theirs = words(caption), words(reference)
            # The COCO tools compute the length penalty from bigrams.
            penalty = math.exp(-((len(mine) - len(theirs)) ** 2) / (2 * 6.0**2))
            for n in range(1, 5):
                a, b = vector(mine, n), vector(theirs, n)
                norms = math.hypot(*a.values()) * math.hypot(*b.values())
                dot = sum(min(value, b.get(gram, 0.0)) * b.get(gram, 0.0) for gram, value in a.items())
                total += penalty * dot / norms / 4 if norms else 0.0
        out.append(10 * total / len(references))
    return out


def test_scores_equal_reference_implementation() -> None:
    scores = score(CAPTIONS, REFERENCES)
    assert scores.bleu1 == pytest.approx(bleu(1), abs=1e-6)
    assert scores.bleu2 == pytest.approx(bleu(2), abs=1e-6)
    assert scores.bleu3 == pytest.approx(bleu(3), abs=1e-6)
    assert scores.bleu4 == pytest.approx(bleu(4), abs=1e-6)
    assert scores.rouge_l == pytest.approx(rouge_l(), abs=1e-6)
    assert scores.each_cider == pytest.approx(cider(), abs=1e-6)
    assert scores.cider == pytest.approx(sum(cider()) / len(CAPTIONS), abs=1e-6)


def test_exact_match_counts_any_reference() -> None:
    scores = score(["A dog runs.", "a cat"], [["the dog", "a dog runs"], ["a cat sits"]])
    assert scores.exact == 0.5


def test_empty_caption_scores_zero() -> None:
    scores = score(["", "a cat sits"], [["a dog"], ["a cat sits"]])
    assert scores.each_cider[0] == 0
    assert scores.exact == 0.5


@pytest.mark.parametrize(("captions", "references"), [([], []), (["a"], []), (["a"], [["..."]])])
def test_invalid_input_is_refused(captions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(InputError):
        score(captions, references)


@pytest.mark.parametrize(
    ("caption", "near", "far"),
    [
        ("一只狗在草地上奔跑", "一只狗在草地上走", "两个人在海边踢足球"),
        ("เด็กผู้หญิงกำลังวิ่ง", "เด็กผู้หญิงกำลังเดิน", "รถสีแดงจอดอยู่"),
    ],
)
def test_scores_of_scripts_without_spaces(caption: str, near: str, far: str) -> None:
    scores = score([caption, far], [[near], [far]])
    assert scores.unit == "words; characters in scripts without spaces"
    assert 0.3 < scores.bleu1 < 1
    assert scores.each_cider[0] > 0
    assert score([far, caption], [[near], [far]]).each_cider[0] < scores.each_cider[0]


def test_scores_tell_hindi_vowels_apart() -> None:
    scores = score(["लड़की दौड़ती है"], [["लड़का दौड़ता है"]])
    assert (scores.exact, scores.unit) == (0.0, "words")
    assert scores.bleu1 == pytest.approx(1 / 3)
