"""How good captions are: BLEU-1 to 4, ROUGE-L and CIDEr against every reference, by pycocoevalcap's scorers.

The COCO tool chain's tokenizer is a Java program; `text.split_words` stands in for it (lower case, no punctuation; in
scripts without blanks between words every character is a word, as is usual for Chinese and Japanese), so
figures compare with those of papers that say "tokenised lower-case without punctuation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from streamcap.errors import InputError
from streamcap.training.data.text import is_unspaced, split_words


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus scores, from 0 to 1 (CIDEr to 10), and each caption's own CIDEr."""

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
    """Whether characters were counted instead of words where a script has no blanks between words."""

    @property
    def unit(self) -> str:
        """What was counted, for people to read."""
        return "words; characters in scripts without blanks" if self.unspaced else "words"

    def summary(self) -> dict[str, float]:
        """The corpus scores alone, rounded as they are reported."""
        left_out = ("each_cider", "unspaced")
        return {name: round(value, 4) for name, value in asdict(self).items() if name not in left_out}


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score caption i against all of `references[i]`.

    Raises InputError where the two differ in length, where there are none, or where an image has no reference.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    if len(captions) != len(references):
        raise InputError(f"{len(captions)} captions and {len(references)} sets of references: they must be as many")
    if not captions:
        raise InputError("nothing to score: there is no caption")
    said = [" ".join(split_words(caption)) for caption in captions]
    truth = [[" ".join(split_words(reference)) for reference in several] for several in references]
    unspaced = any(is_unspaced(text) for several in references for text in several)
    if (empty := next((i for i, several in enumerate(truth) if not any(several)), None)) is not None:
        raise InputError(f"caption {empty} ({captions[empty]!r}) has no reference to be scored against")
    bleu, cider, rouge = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0), Rouge()
    overlaps = []
    for caption, several in zip(said, truth, strict=True):
        bleu += (caption, several)
        cider += (caption, several)
        overlaps.append(rouge.calc_score([caption], several) if caption else 0.0)
    bleus, _ = bleu.compute_score(option="closest", verbose=0)
    mean_cider, each = cider.compute_score()
    exact = sum(caption in several for caption, several in zip(said, truth, strict=True)) / len(said)
    rouge_l = float(sum(overlaps) / len(overlaps))
    bleu1, bleu2, bleu3, bleu4 = (float(value) for value in bleus)
    ciders = tuple(float(value) for value in each)
    return Scores(bleu1, bleu2, bleu3, bleu4, rouge_l, float(mean_cider), exact, ciders, unspaced)
