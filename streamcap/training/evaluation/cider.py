"""CIDEr-D as a reward: one caption at a time, quickly, against references that were read once.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", section 5 (CIDEr-D), as the COCO tools
compute it: n-grams of 1 to 4 words weighted by tf-idf, clipped cosine, a Gaussian penalty (sigma 6) on the difference
in length, mean over n and references, times 10.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_GRAM = 4
SIGMA = 6.0
END = "<end>"
"""A word that stands for the end of a sentence. With it among the n-grams, a caption that breaks off (`a man in a`) is
worth less than a whole one; without it a captioner trained on CIDEr learns to break off."""

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _References:
    """The references of one image."""

    weights: dict[Gram, list[tuple[int, float]]]
    """By n-gram: which references have it, and its tf-idf weight there."""
    norms: list[list[float]]
    """By reference and n: the length of the weight vector."""
    lengths: list[int]
    """By reference: its bigrams, by which the COCO tools measure a sentence."""


class CiderD:
    """Scores captions of known images.

    references: by image, its references, each a sequence of words. Document frequencies are taken over them.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        grams = [[count_grams(words) for words in several] for several in references]
        documents: Counter[Gram] = Counter()
        for several in grams:
            documents.update({gram for counts in several for gram in counts})
        self._most = math.log(max(1, len(references)))
        self._rarity = {gram: self._most - math.log(count) for gram, count in documents.items()}
        self._references = [self._read(several) for several in grams]

    def score(self, image: int, words: Sequence[str]) -> float:
        """CIDEr-D, 0 to 10, of a caption of image number `image`."""
        known = self._references[image]
        counts = count_grams(words)
        dots = [[0.0] * LONGEST_GRAM for _ in known.norms]
        squares = [0.0] * LONGEST_GRAM
        for gram, count in counts.items():
            n = len(gram) - 1
            mine = count * self._rarity.get(gram, self._most)
            squares[n] += mine * mine
            for reference, theirs in known.weights.get(gram, ()):
                dots[reference][n] += min(mine, theirs) * theirs
        length = max(0, len(words) - 1)
        total = 0.0
        for dot, norms, theirs in zip(dots, known.norms, known.lengths, strict=True):
            near = sum(
                dot[n] / (math.sqrt(squares[n]) * norms[n]) for n in range(LONGEST_GRAM) if norms[n] and squares[n]
            )
            total += near * math.exp(-((length - theirs) ** 2) / (2 * SIGMA**2))
        return 10 * total / LONGEST_GRAM / len(known.norms)

    def _read(self, several: Sequence[Counter[Gram]]) -> _References:
        weights: dict[Gram, list[tuple[int, float]]] = {}
        norms, lengths = [], []
        for reference, counts in enumerate(several):
            squares = [0.0] * LONGEST_GRAM
            for gram, count in counts.items():
                weight = count * self._rarity[gram]
                weights.setdefault(gram, []).append((reference, weight))
                squares[len(gram) - 1] += weight * weight
            norms.append([math.sqrt(square) for square in squares])
            lengths.append(sum(count for gram, count in counts.items() if len(gram) == 2))
        return _References(weights, norms, lengths)


def count_grams(words: Sequence[str]) -> Counter[Gram]:
    """How often every n-gram of 1 to 4 words occurs."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, LONGEST_GRAM + 1) for start in range(len(words) - n + 1)
    )
