"""Caption scores: BLEU-1 to 4, ROUGE-L and CIDEr against all references, by the scorers of pycocoevalcap.

`text.split_words` replaces the COCO tools' tokenizer, which needs Java: lower case, no punctuation; in scripts without
spaces between words every character is a word, as is usual for Chinese and Japanese. The scores compare with those of
papers that tokenize to lower case without punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from streamcap.errors import InputError
from streamcap.training.data.text import is_unspaced, split_words


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus scores from 0 to 1 (CIDEr: 0 to 10), and the CIDEr of each caption."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    rouge_l: float
    cider: float
    exact: float
    """Share of captions that equal one of their references word for word."""
    each_cider: tuple[float, ...]
    unspaced: bool = False
    """Whether some text is in a script without spaces, where characters count as words."""

    @property
    def unit(self) -> str:
        """The unit of the n-grams, for reports."""
        return "words; characters in scripts without spaces" if self.unspaced else "words"

    def summary(self) -> dict[str, float]:
        """The corpus scores, rounded for reports."""
        excluded = ("each_cider", "unspaced")
        return {name: round(value, 4) for name, value in asdict(self).items() if name not in excluded}


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score `captions[i]` against all of `references[i]`.

    Raises InputError if the two differ in length, if they are empty, or if a caption has no reference.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    if len(captions) != len(references):
        raise InputError(f"{len(captions)} captions and {len(references)} sets of references: must be equal")
    if not captions:
        raise InputError("no captions to score")
    hypotheses = [" ".join(split_words(caption)) for caption in captions]
    truth = [[" ".join(split_words(reference)) for reference in several] for several in references]
    unspaced = any(is_unspaced(text) for several in references for text in several)
    if (empty := next((i for i, several in enumerate(truth) if not any(several)), None)) is not None:
        raise InputError(f"caption {empty} ({captions[empty]!r}) has no reference")
    bleu, cider, rouge = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0), Rouge()
    overlaps = []
    for caption, several in zip(hypotheses, truth, strict=True):
        bleu += (caption, several)
        cider += (caption, several)
        overlaps.append(rouge.calc_score([caption], several) if caption else 0.0)
    bleus, _ = bleu.compute_score(option="closest", verbose=0)
    mean_cider, each = cider.compute_score()
    exact = sum(caption in several for caption, several in zip(hypotheses, truth, strict=True)) / len(hypotheses)
    rouge_l = float(sum(overlaps) / len(overlaps))
    bleu1, bleu2, bleu3, bleu4 = (float(value) for value in bleus)
    ciders = tuple(float(value) for value in each)
    return Scores(bleu1, bleu2, bleu3, bleu4, rouge_l, float(mean_cider), exact, ciders, unspaced)
