"""Judge captions on a split: scores, variety, lengths, calibration of the log-probability."""

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
from streamcap.training.data.text import normalize
from streamcap.training.evaluation.object_truth import judge_captions, truth_of_captions
from streamcap.training.evaluation.scores import Scores, score

if TYPE_CHECKING:
    from streamcap.captioner import Captioner

CALIBRATION_BINS = 5
EXAMPLES_A_PASS = 64


@dataclass(frozen=True, slots=True)
class EvaluatedCaption:
    """One caption beside its references."""

    name: str
    caption: str
    references: tuple[str, ...]
    logprob: float
    """Mean natural-log probability of its tokens."""
    cider: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that is told of a checkpoint on a split."""

    scores: Scores
    judged: tuple[EvaluatedCaption, ...]

    def report(self) -> dict[str, Any]:
        """The figures, fit for JSON."""
        lengths = [len(normalize(one.caption).split()) for one in self.judged]
        captions = [normalize(one.caption) for one in self.judged]
        words = {word for caption in captions for word in caption.split()}
        return {
            "captions": len(captions),
            **self.scores.summary(),
            "distinct": len(set(captions)),
            "distinct_words": len(words),
            "words_mean": round(float(np.mean(lengths)), 2),
            "words_min": min(lengths),
            "words_max": max(lengths),
            "calibration": calibration(self.judged),
            "objects": judge_captions(
                [one.caption for one in self.judged], [truth_of_captions(one.references) for one in self.judged]
            ).report(),
        }


def check_encoder(captioner: Captioner, cache: FeatureCache) -> None:
    """Raises InputError where the cache was made by another vision encoder than the captioner holds or was taught on;
    a checkpoint that says nothing of its encoder is taken on trust."""
    path = Path(captioner.info["path"])
    # Opened anew only where it holds an encoder: its weights as they were before any conversion.
    vision = None if captioner.info["image"] is None else open_checkpoint(path).vision
    on_progress = settings_beside(path).encoder
    mine = fingerprint(vision) if vision is not None else on_progress and on_progress.fingerprint
    if mine is not None and mine != cache.encoder.fingerprint:
        raise InputError(
            f"{cache.folder}: was made by another vision encoder ({cache.encoder.name}) than {path} was taught on; "
            "make a cache with that one"
        )


def caption_cache(
    captioner: Captioner, cache: FeatureCache, split: str, examples: Sequence[Example], beam_size: int = 1
) -> list[Result]:
    """What a captioner says of cached features, one result for each of `examples`."""
    results: list[Result] = []
    for start in range(0, len(examples), EXAMPLES_A_PASS):
        some = list(examples[start : start + EXAMPLES_A_PASS])
        results += captioner.caption_embeddings(cache.features(split, some), beam_size=beam_size)
    return results


def evaluate_results(
    names: Sequence[str], results: Sequence[Result], references: Sequence[Sequence[str]]
) -> Evaluation:
    """Judge result i, of the item `names[i]`, against all of `references[i]`."""
    scores = score([result.text for result in results], references)
    judged = tuple(
        EvaluatedCaption(name, result.text, tuple(several), result.logprob, cider)
        for name, result, several, cider in zip(names, results, references, scores.each_cider, strict=True)
    )
    return Evaluation(scores, judged)


def calibration(judged: Sequence[EvaluatedCaption]) -> dict[str, Any]:
    """Whether the model's certainty means something.

    Confidence is `exp(logprob)`, the geometric mean probability of a token; correctness the share of a caption's words
    that some reference has. `error` is the expected calibration error over bins of equally many captions (Guo et al.
    2017, with equal counts); `rank_correlation` Spearman's between log-probability and the caption's CIDEr.
    """
    confidence = np.array([math.exp(one.logprob) for one in judged])
    correct = np.array([_found(one) for one in judged])
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, CALIBRATION_BINS) if len(part)]
    table = [
        {"captions": len(part), "confidence": _mean(confidence[part]), "correct": _mean(correct[part])} for part in bins
    ]
    error = sum(len(part) * abs(confidence[part].mean() - correct[part].mean()) for part in bins) / len(judged)
    ranks = [_ranks(np.array([one.logprob for one in judged])), _ranks(np.array([one.cider for one in judged]))]
    spread = ranks[0].std() * ranks[1].std()
    covariance = float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean())
    correlation = round(covariance / spread, 4) if spread > 0 else None
    return {"error": round(float(error), 4), "rank_correlation": correlation, "bins": table}


def table(report: dict[str, Any]) -> str:
    """The figures as two columns of text."""
    rows = [(name, value) for name, value in report.items() if not isinstance(value, dict)]
    for part in ("calibration", "objects", "confidence"):
        rows += [(f"{part} {name}", value) for name, value in report.get(part, {}).items() if name != "bins"]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _found(one: EvaluatedCaption) -> float:
    known = {word for reference in one.references for word in normalize(reference).split()}
    words = normalize(one.caption).split()
    return sum(word in known for word in words) / len(words) if words else 0.0


def _ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    shared: np.ndarray[Any, np.dtype[np.float64]] = (starts + (counts - 1) / 2)[inverse]
    return shared


def _mean(values: np.ndarray[Any, Any]) -> float:
    return round(float(values.mean()), 4)
