"""Evaluates `mini` during training, through the captioner that users run, and stores the best model so far."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamcap.atomic import write_json
from streamcap.training.curves import Curves
from streamcap.training.evaluation.scores import score
from streamcap.training.export import copy_checkpoint, export_native
from streamcap.training.mini.data import Data
from streamcap.training.mini.stages.stage import StageTrainer

log = logging.getLogger(__name__)

DEV_BEAM = 3
"""Beam size for real images. Synthetic scenes are captioned greedily, as live streams are."""
EXACT_ENOUGH = 0.95
"""From this share of exact captions of synthetic scenes on, CIDEr on real images decides which model is best."""


def evaluate_stage(
    trainer: StageTrainer, config: Mapping[str, Any], data: Data, run: Path, stage: str, curves: Curves
) -> dict[str, float]:
    """Caption the dev images and the unseen synthetic scenes. Store the model in RUN/best if it is the best so far.

    Returns `scenes_exact` and the dev scores by name.
    """
    from streamcap.captioner import load_captioner

    tried = run / "tried"
    export_native(tried, trainer.ema, config, trainer.image_spec, data.tokenizer)
    captioner = load_captioner(str(tried), device="cpu", precision="fp32")
    captions = [result.text for result in captioner.caption(list(np.array(data.scenes_dev.pixels)))]
    exact = float(np.mean([one == other for one, other in zip(captions, data.scenes_dev.sentences, strict=True)]))
    results = captioner.caption(list(np.array(data.dev_pixels)), beam_size=DEV_BEAM)
    scores = score([result.text for result in results], data.dev_captions)
    curves.add(
        step=trainer.step,
        epoch=0,
        dev_cider=scores.cider,
        dev_bleu4=scores.bleu4,
        dev_beam=DEV_BEAM,
        exact=exact,
    )
    found = {"scenes_exact": exact, **{f"dev_{name}": value for name, value in scores.summary().items()}}
    log.info("%s %d: %s", stage, trainer.step, json.dumps(found))
    best = run / "best" / "scores.json"
    before = json.loads(best.read_text(encoding="utf-8")) if best.is_file() else None
    if before is None or rank(found) > rank(before):
        copy_checkpoint(tried, best.parent)
        write_json(best, {"stage": stage, "step": trainer.step, "dev_beam": DEV_BEAM, **found})
    return found


def rank(scores: Mapping[str, float]) -> tuple[float, float]:
    """Sort key: the share of exact captions of synthetic scenes up to EXACT_ENOUGH, then CIDEr on real images."""
    # In whole per cents: 400 scenes do not measure it more exactly.
    return math.floor(100 * min(scores["scenes_exact"], EXACT_ENOUGH)), scores["dev_cider"]
