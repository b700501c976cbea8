"""Evaluate captions on a split: scores, variety, lengths, calibration of the log-probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.settings import settings_beside
from streamcap.captioner.models.vision import fingerprint
from streamcap.captioner.result import Result
from streamcap.errors import InputError
from streamcap.training.data.feature_cache import Example, FeatureCache
from streamcap.training.data.text import split_words
from streamcap.training.evaluation.object_truth import judge_captions, truth_of_captions
from streamcap.training.evaluation.scores import Scores, score

if TYPE_CHECKING:
    from streamcap.captioner import Captioner

CALIBRATION_BINS = 5
BATCH_EXAMPLES = 64


@dataclass(frozen=True, slots=True)
class EvaluatedCaption:
    """One caption with its references and scores."""

    name: str
    caption: str
    references: tuple[str, ...]
    logprob: float
    """Mean natural-log probability of its tokens."""
    cider: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a checkpoint on a split."""

    scores: Scores
    judged: tuple[EvaluatedCaption, ...]

    def report(self) -> dict[str, Any]:
        """The figures as JSON values."""
        word_lists = [tuple(split_words(one.caption)) for one in self.judged]
        lengths = [len(words) for words in word_lists]
        vocabulary = {word for words in word_lists for word in words}
        return {
            "captions": len(word_lists),
            "scored_on": self.scores.unit,
            **self.scores.summary(),
            "distinct": len(set(word_lists)),
            "distinct_words": len(vocabulary),
            "words_mean": round(float(np.mean(lengths)), 2),
            "words_min": min(lengths),
            "words_max": max(lengths),
            "calibration": calibration(self.judged),
            "objects": judge_captions(
                [one.caption for one in self.judged], [truth_of_captions(one.references) for one in self.judged]
            ).report(),
        }


def check_encoder(captioner: Captioner, cache: FeatureCache) -> None:
    """Raises InputError if the cache was made by another vision encoder than the captioner contains or was trained on.

    A checkpoint that does not name its encoder is accepted.
    """
    path = Path(captioner.info["path"])
    # The fingerprint is of the stored weights, before any conversion, so the checkpoint is opened again.
    vision = None if captioner.info["image"] is None else open_checkpoint(path).vision
    trained_on = settings_beside(path).encoder
    expected = fingerprint(vision) if vision is not None else trained_on and trained_on.fingerprint
    if expected is not None and expected != cache.encoder.fingerprint:
        raise InputError(
            f"{cache.folder}: was made by another vision encoder ({cache.encoder.name}) than {path} was trained on; "
            "make a cache with that encoder"
        )


def caption_cache(
    captioner: Captioner, cache: FeatureCache, split: str, examples: Sequence[Example], beam_size: int = 1
) -> list[Result]:
    """Caption cached features; one result for each of `examples`."""
    results: list[Result] = []
    for start in range(0, len(examples), BATCH_EXAMPLES):
        batch = list(examples[start : start + BATCH_EXAMPLES])
        results += captioner.caption_embeddings(cache.features(split, batch), beam_size=beam_size)
    return results


def evaluate_results(
    names: Sequence[str], results: Sequence[Result], references: Sequence[Sequence[str]]
) -> Evaluation:
    """Evaluate `results[i]`, the caption of item `names[i]`, against all of `references[i]`."""
    scores = score([result.text for result in results], references)
    captions = tuple(
        EvaluatedCaption(name, result.text, tuple(several), result.logprob, cider)
        for name, result, several, cider in zip(names, results, references, scores.each_cider, strict=True)
    )
    return Evaluation(scores, captions)


def calibration(captions: Sequence[EvaluatedCaption]) -> dict[str, Any]:
    """How well the model's confidence predicts correctness.

    Confidence is `exp(logprob)`, the geometric mean of the token probabilities. Correctness is the share of a caption's
    words that occur in a reference. `error`: expected calibration error over bins of equal size (Guo et al. 2017).
    `rank_correlation`: Spearman's, between log-probability and CIDEr of a caption; None if one of them is constant.
    """
    confidence = np.array([math.exp(one.logprob) for one in captions])
    correct = np.array([_correctness(one) for one in captions])
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, CALIBRATION_BINS) if len(part)]
    table = [
        {"captions": len(part), "confidence": _mean(confidence[part]), "correct": _mean(correct[part])} for part in bins
    ]
    error = sum(len(part) * abs(confidence[part].mean() - correct[part].mean()) for part in bins) / len(captions)
    ranks = [_ranks(np.array([one.logprob for one in captions])), _ranks(np.array([one.cider for one in captions]))]
    spread = ranks[0].std() * ranks[1].std()
    covariance = float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean())
    correlation = round(covariance / spread, 4) if spread > 0 else None
    return {"error": round(float(error), 4), "rank_correlation": correlation, "bins": table}


def table(report: dict[str, Any]) -> str:
    """A report as two columns of text."""
    rows = [(name, value) for name, value in report.items() if not isinstance(value, dict)]
    for part in ("calibration", "objects", "confidence"):
        rows += [(f"{part} {name}", value) for name, value in report.get(part, {}).items() if name != "bins"]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _correctness(one: EvaluatedCaption) -> float:
    reference_words = {word for reference in one.references for word in split_words(reference)}
    words = split_words(one.caption)
    return sum(word in reference_words for word in words) / len(words) if words else 0.0


def _ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks from 0; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    shared: np.ndarray[Any, np.dtype[np.float64]] = (starts + (counts - 1) / 2)[inverse]
    return shared


def _mean(values: np.ndarray[Any, Any]) -> float:
    return round(float(values.mean()), 4)
