"""CIDEr-D as a training reward: fast scores of single captions against references that are prepared once.

Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation", section 5 (CIDEr-D), as the COCO tools
compute it: n-grams of 1 to 4 words weighted by tf-idf, clipped cosine, a Gaussian penalty (sigma 6) on the difference
in length, mean over n and references, times 10.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_NGRAM = 4
SIGMA = 6.0
END = "<end>"
"""A word for the end of a sentence. With it, an unfinished caption (`a man in a`) scores lower than a complete one;
without it, training on CIDEr teaches the model to stop early."""

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _References:
    """The references of one image."""

    weights: dict[Gram, list[tuple[int, float]]]
    """n-gram → (index of a reference that contains it, its tf-idf weight there)."""
    norms: list[list[float]]
    """Norm of the weight vector, by reference and n."""
    lengths: list[int]
    """Number of bigrams by reference: the sentence length of the COCO tools."""


class CiderD:
    """Scores captions of a fixed set of images.

    references: for each image its references, each a sequence of words; they also give the document frequencies.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        counts_by_image = [[count_ngrams(words) for words in several] for several in references]
        documents: Counter[Gram] = Counter()
        for several in counts_by_image:
            documents.update({gram for counts in several for gram in counts})
        self._max_idf = math.log(max(1, len(references)))
        self._idf = {gram: self._max_idf - math.log(count) for gram, count in documents.items()}
        self._references = [self._prepare(several) for several in counts_by_image]

    def score(self, image: int, words: Sequence[str]) -> float:
        """CIDEr-D, 0 to 10, of a caption of image number `image`."""
        references = self._references[image]
        counts = count_ngrams(words)
        dots = [[0.0] * MAX_NGRAM for _ in references.norms]
        squares = [0.0] * MAX_NGRAM
        for gram, count in counts.items():
            n = len(gram) - 1
            weight = count * self._idf.get(gram, self._max_idf)
            squares[n] += weight * weight
            for reference, reference_weight in references.weights.get(gram, ()):
                dots[reference][n] += min(weight, reference_weight) * reference_weight
        length = max(0, len(words) - 1)
        total = 0.0
        for dot, norms, reference_length in zip(dots, references.norms, references.lengths, strict=True):
            similarity = sum(
                dot[n] / (math.sqrt(squares[n]) * norms[n]) for n in range(MAX_NGRAM) if norms[n] and squares[n]
            )
            total += similarity * math.exp(-((length - reference_length) ** 2) / (2 * SIGMA**2))
        return 10 * total / MAX_NGRAM / len(references.norms)

    def _prepare(self, several: Sequence[Counter[Gram]]) -> _References:
        weights: dict[Gram, list[tuple[int, float]]] = {}
        norms, lengths = [], []
        for reference, counts in enumerate(several):
            squares = [0.0] * MAX_NGRAM
            for gram, count in counts.items():
                weight = count * self._idf[gram]
                weights.setdefault(gram, []).append((reference, weight))
                squares[len(gram) - 1] += weight * weight
            norms.append([math.sqrt(square) for square in squares])
            lengths.append(sum(count for gram, count in counts.items() if len(gram) == 2))
        return _References(weights, norms, lengths)


def count_ngrams(words: Sequence[str]) -> Counter[Gram]:
    """Count every n-gram of 1 to 4 words."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, MAX_NGRAM + 1) for start in range(len(words) - n + 1)
    )
