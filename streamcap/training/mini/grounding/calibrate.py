"""The last step of `grounding.recipe`: what the tags deny, how sure a caption is, and when a short sentence is surer.

    python -m streamcap.training.mini.grounding.calibrate MODEL POOL

captions the held-out images of POOL whose name's SHA-256 ends in an even digit with several thresholds, and writes
`deny_below`, `confidence` and `short` into MODEL/config.json. The figures of the other half are printed: they are
honest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from streamcap.atomic import read_json, write_json
from streamcap.captioner import load_captioner
from streamcap.captioner.grounding.grounding import Confidence, Grounding, ShortSentences
from streamcap.captioner.grounding.object_words import find_mentions
from streamcap.captioner.result import Result
from streamcap.errors import InputError
from streamcap.training.data.clips import UnreadableError, read_image
from streamcap.training.data.corpus import MediaFolder, read_flickr
from streamcap.training.evaluation.held_out import is_held_out
from streamcap.training.evaluation.object_truth import ImageTruth, is_correct, judge_captions, read_truths
from streamcap.training.mini.grounding.confidence import fit_confidence, judge_confidence, suggest_min_confidence
from streamcap.training.mini.steps import run_command

log = logging.getLogger(__name__)

THRESHOLDS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7)
TRUE_WORDS: Final = 0.85
MAIN_NAMED: Final = 0.5
"""Goals: object words that are true, and images whose main object is named. A threshold is worth how much of both it
reaches; beyond a goal nothing is won."""
SHORT_TRUE: Final = 0.85
"""Of the short sentences that may take a caption's place."""
REPLACE_BELOW: Final = 0.3
"""The confidence under which a caption that names the surest object gives way as well: most of these are wrong."""
BATCH = 32


def in_first_half(name: str) -> bool:
    """Whether a held-out image is for fitting; the others are for measuring."""
    return int(hashlib.sha256(name.encode()).hexdigest()[-1], 16) % 2 == 0


def held_out_truths(pool: Path, media: MediaFolder) -> dict[str, ImageTruth]:
    """The truth of every held-out image of the pool that is there."""
    captions = {}
    if (pool / "captions.csv").is_file():
        items = read_flickr(pool / "captions.csv", media, {}).splits["train"]
        captions = {item.name: item.captions for item in items}
    seen = pool / "teachers.jsonl.gz"
    truths = read_truths(pool / "labels.csv", seen if seen.is_file() else None, captions)
    return {
        name: truth for name, truth in truths.items() if name in media and is_held_out(name, captioned=name in captions)
    }


class Calibration:
    """A model's embeddings and tags of the held-out images, captioned as often as wanted."""

    def __init__(self, model: Path, pool: Path) -> None:
        tar = pool / "images-176.tar"
        media = MediaFolder(tar if tar.is_file() else pool / "images")
        self.captioner = load_captioner(str(model), device="cpu", precision="fp32")
        grounding = self.captioner.grounding
        if grounding is None:
            raise InputError(f"{model}: has no tags; it is no model of grounding.recipe")
        # What is decoded is wanted, not what an earlier calibration made of it.
        grounding.confidence = grounding.short = None
        self.grounding: Grounding = grounding
        self.names: list[str] = []
        self.truths: list[ImageTruth] = []
        parts = []
        pixels = []
        for name, truth in held_out_truths(pool, media).items():
            try:
                pixels.append(read_image(media.read(name), self.captioner.image_spec))
            except (UnreadableError, OSError) as error:
                log.warning("%s: broken (%s), left out", name, error)
                continue
            self.names.append(name)
            self.truths.append(truth)
            if len(pixels) == BATCH:
                parts.append(self.captioner.encode(_stacked(pixels)))
                pixels.clear()
        if pixels:
            parts.append(self.captioner.encode(_stacked(pixels)))
        if not parts:
            raise InputError(f"{pool}: none of the held-out images is there")
        self.embeddings = torch.cat(parts)
        self.tags = self.captioner.tags(self.embeddings)
        self.first = [in_first_half(name) for name in self.names]

    def caption(self, deny_below: float) -> list[Result]:
        """Greedy captions with that threshold."""
        self.grounding.deny_below = deny_below
        return self.captioner.decode(self.embeddings)

    def report(self, results: list[Result], *, first: bool) -> dict[str, Any]:
        """Object truth of one half."""
        rows = [row for row, half in enumerate(self.first) if half is first]
        return judge_captions([results[row].text for row in rows], [self.truths[row] for row in rows]).report()

    def fit(self, results: list[Result]) -> Confidence:
        """A confidence for these captions, by the first half."""
        rows = [row for row, correct in self._known(results) if self.first[row]]
        correct = dict(self._known(results))
        weakest = [self.grounding.weakest(results[row].text, self.tags[row]) for row in rows]
        return fit_confidence(weakest, [results[row].logprob for row in rows], [correct[row] for row in rows])

    def fit_short(self, results: list[Result]) -> ShortSentences | None:
        """When a short sentence takes a caption's place, by the first half; None where none is ever sure."""
        rows = [row for row, half in enumerate(self.first) if half]
        tags = [self.grounding.surest(self.tags[row]) for row in rows]
        there = [_is_there(name, self.truths[row]) for row, (name, _) in zip(rows, tags, strict=True)]
        known = [(number, true) for number, true in enumerate(there) if true is not None]
        probabilities = [tags[number][1] for number, _ in known]
        model = fit_confidence(probabilities, [0.0] * len(known), [true for _, true in known])
        short = ShortSentences(model.bias, model.weakest, 0.0, REPLACE_BELOW)
        left_out = [
            (short.estimate(tags[number][1]), true)
            for number, true in known
            if tags[number][0] not in _named(results[rows[number]].text)
        ]
        lowest = suggest_min_confidence([sure for sure, _ in left_out], [true for _, true in left_out], SHORT_TRUE)
        return None if lowest is None else replace(short, min_confidence=lowest)

    def judged(
        self, results: list[Result], confidence: Confidence, short: ShortSentences | None = None
    ) -> list[Result]:
        """The results as users get them, once that is in the model's config."""
        self.grounding.confidence, self.grounding.short = confidence, short
        said = [self.grounding.judge(one.text, one.logprob, tags) for one, tags in zip(results, self.tags, strict=True)]
        self.grounding.confidence = self.grounding.short = None
        return [replace(one, text=text, confidence=sure) for one, (text, sure) in zip(results, said, strict=True)]

    def evaluate(self, judged: list[Result]) -> dict[str, Any]:
        """What the confidences are worth on the second half."""
        return judge_confidence(*self._sure(judged, first=False))

    def min_confidence(self, judged: list[Result]) -> float | None:
        """What a service may ask of a caption that it says, by the first half."""
        return suggest_min_confidence(*self._sure(judged, first=True))

    def _sure(self, judged: list[Result], *, first: bool) -> tuple[list[float], list[bool]]:
        known = [(row, correct) for row, correct in self._known(judged) if self.first[row] is first]
        return [judged[row].confidence or 0.0 for row, _ in known], [correct for _, correct in known]

    def _known(self, results: list[Result]) -> list[tuple[int, bool]]:
        verdicts = [is_correct(result.text, truth) for result, truth in zip(results, self.truths, strict=True)]
        return [(row, verdict) for row, verdict in enumerate(verdicts) if verdict is not None]


def _is_there(name: str, truth: ImageTruth) -> bool | None:
    return True if name in truth.present else None if name in truth.unknown else False


def _worth(report: Mapping[str, Any]) -> float:
    """How much of both goals is reached."""
    true_words, named = report["precision"] or 0.0, report["main_object_named"] or 0.0
    return float(min(true_words / TRUE_WORDS, 1) + min(named / MAIN_NAMED, 1))


def _named(text: str) -> set[str]:
    return {name for mention in find_mentions(text) for name in mention.classes}


def _stacked(pixels: list[Any]) -> Any:
    return np.stack(pixels)


def calibrate(model: Path, pool: Path, deny_below: float | None = None) -> dict[str, Any]:
    """Choose the threshold, fit the confidence, write both into the model's config.json; the second half's figures."""
    work = Calibration(model, pool)
    tried: dict[float, list[Result]] = {}
    scores: dict[float, float] = {}
    thresholds = THRESHOLDS if deny_below is None else (deny_below,)
    for threshold in thresholds:
        tried[threshold] = work.caption(threshold)
        found = work.report(tried[threshold], first=True)
        log.info("deny_below %.2f: %s", threshold, json.dumps(found))
        scores[threshold] = _worth(found)
    best = max(thresholds, key=lambda threshold: scores[threshold])
    results = tried[best]
    confidence, short = work.fit(results), work.fit_short(results)
    judged = work.judged(results, confidence, short)
    config = read_json(model / "config.json")
    settings = {
        "deny_below": best,
        "confidence": asdict(confidence),
        "short": None if short is None else asdict(short),
    }
    config["tags"] = {**config["tags"], **settings}
    write_json(model / "config.json", config)
    return {
        "deny_below": best,
        "short": settings["short"],
        "min_confidence": work.min_confidence(judged),
        "confidence": work.evaluate(judged),
        "objects": work.report(judged, first=False),
        "short_sentences": sum(one.text != two.text for one, two in zip(judged, results, strict=True)),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 2 for wrong use, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m streamcap.training.mini.grounding.calibrate", description=__doc__)
    parser.add_argument("model", type=Path, help="a model of grounding.recipe")
    parser.add_argument("pool", type=Path, help="the pool's folder")
    parser.add_argument("--deny-below", type=float, help="take this threshold instead of choosing one")

    def run(given: argparse.Namespace) -> None:
        log.info("%s", json.dumps(calibrate(given.model, given.pool, given.deny_below)))

    return run_command(parser, arguments, run)


if __name__ == "__main__":
    sys.exit(main())
