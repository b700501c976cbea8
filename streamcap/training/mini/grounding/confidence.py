"""Fitting and judging a captioner's confidence: the probability that no object word of a caption is false."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamcap.captioner.grounding.grounding import Confidence, logit

TRUE_SHARE: Final = 0.92
"""Of the captions that a service should say aloud."""
BINS: Final = 10
SUREST: Final = 0.7
_ROUNDS = 50
_RIDGE = 1.0
"""Strength of the pull of all coefficients but the bias towards 0, in captions."""

Floats = npt.NDArray[np.float64]


def fit_confidence(weakest: Sequence[float | None], logprobs: Sequence[float], correct: Sequence[bool]) -> Confidence:
    """The logistic model of `Confidence` with the largest likelihood, by Newton's method with a small ridge.

    weakest: of each caption the probability of its least probable object word, None where it has none. logprobs: mean
    log-probabilities. correct: whether no object word is false.
    """
    x = np.array([_features(one, logprob) for one, logprob in zip(weakest, logprobs, strict=True)])
    y = np.array(correct, dtype=np.float64)
    ridge = np.diag([1e-6] + [_RIDGE] * (x.shape[1] - 1))
    beta = np.zeros(x.shape[1])
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (y - p) - ridge @ beta
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(hessian, gradient)
        beta = beta + step
        if float(np.abs(step).max()) < 1e-8:
            break
    bias, slope, logprob, none = (round(float(value), 4) for value in beta)
    return Confidence(bias, slope, logprob, none)


def _features(weakest: float | None, logprob: float) -> list[float]:
    return [1.0, 0.0 if weakest is None else logit(weakest), logprob, float(weakest is None)]


def judge_confidence(confidences: Sequence[float], correct: Sequence[bool]) -> dict[str, Any]:
    """Expected calibration error over `BINS` equal widths (Guo et al. 2017), the bins themselves, and how many captions
    of the surest `SUREST` are correct; None for shares of nothing."""
    sure, true = np.array(confidences, dtype=np.float64), np.array(correct, dtype=np.float64)
    if not len(sure):
        return {"captions": 0, "error": None, "surest_correct": None, "bins": []}
    place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    bins = []
    error = 0.0
    for number in range(BINS):
        inside = place == number
        if inside.any():
            mean, share = float(sure[inside].mean()), float(true[inside].mean())
            error += float(inside.mean()) * abs(mean - share)
            bins.append({"captions": int(inside.sum()), "confidence": round(mean, 4), "correct": round(share, 4)})
    surest = np.argsort(-sure, kind="stable")[: max(1, round(SUREST * len(sure)))]
    return {
        "captions": len(sure),
        "error": round(error, 4),
        "surest_correct": round(float(true[surest].mean()), 4),
        "bins": bins,
    }


def suggest_min_confidence(
    confidences: Sequence[float], correct: Sequence[bool], share: float = TRUE_SHARE
) -> float | None:
    """The lowest twentieth from which on `share` of the captions that are as sure or surer are correct; None where
    there is none."""
    sure, true = np.array(confidences, dtype=np.float64), np.array(correct, dtype=np.float64)
    for twentieth in range(20):
        kept = sure >= twentieth / 20
        if kept.any() and true[kept].mean() >= share:
            return twentieth / 20
    return None
