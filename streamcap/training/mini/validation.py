"""How good `mini` is at the moment, by the captioner that users run, and which of its weights are the best so far."""

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
"""Beams for the real images; drawn scenes are captioned greedily, as a live stream is."""
EXACT_ENOUGH = 0.95
"""Share of drawn scenes that must be right word for word before real images decide which model is best."""


def evaluate_stage(
    trainer: StageTrainer, config: Mapping[str, Any], data: Data, run: Path, stage: str, curves: Curves
) -> dict[str, float]:
    """Caption the dev images and the unseen drawn scenes; keep the model in RUN/best where it is the best."""
    from streamcap.captioner import load_captioner

    tried = run / "tried"
    export_native(tried, trainer.ema, config, trainer.image_spec, data.tokenizer)
    captioner = load_captioner(str(tried), device="cpu", precision="fp32")
    said = [result.text for result in captioner.caption(list(np.array(data.scenes_dev.pixels)))]
    exact = float(np.mean([one == other for one, other in zip(said, data.scenes_dev.sentences, strict=True)]))
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
    """Drawn scenes first, by whole per cents, until enough are right; then CIDEr on real images."""
    # 400 drawn images cannot tell half a per cent.
    return math.floor(100 * min(scores["scenes_exact"], EXACT_ENOUGH)), scores["dev_cider"]
