"""The recipe that trains `mini` from Flickr8k and synthetic scenes:

    python -m streamcap.training.mini.recipe FLICKR8K RUN --teacher mobilenet_v2_1.0_224_ptq.tflite

FLICKR8K holds `results.csv`, `train.txt`, `dev.txt` and the images, in `images-192.tar` or a folder `images`. All files
are written to RUN. The same command resumes a run that was stopped by SIGTERM or Ctrl-C. RUN/best has the best model by
the dev split. The test split is not read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.training.curves import Curves
from streamcap.training.mini import steps
from streamcap.training.mini.data import Data, prepare
from streamcap.training.mini.features import StoppedError, store_features
from streamcap.training.mini.stages.caption import CaptionStageOptions, CaptionStageTrainer
from streamcap.training.mini.stages.joint import JointOptions, JointTrainer
from streamcap.training.mini.stages.scst import ScstOptions, ScstTrainer
from streamcap.training.mini.stages.stage import StageTrainer
from streamcap.training.mini.teacher import Teacher, TfliteTeacher
from streamcap.training.mini.validation import evaluate_stage

log = logging.getLogger(__name__)

PICTURE = ImageSpec(160, 160, "squash", "area", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG: dict[str, Any] = {
    "vision": {
        "architecture": "staged",
        "stem": 16,
        "widths": [32, 64, 128, 128, 256, 256],
        "depths": [1, 1, 1, 1, 1, 1],
        "strides": [2, 2, 2, 1, 2, 1],
        # The teacher's channels, and more of the encoder's own for the attributes of synthetic scenes.
        "outputs": [24 + 8, 32 + 16, 64 + 32, 96 + 32, 160 + 64, 320 + 64],
    },
    "mapping": {
        "architecture": "grid",
        "cells": 25,
        "channels": 384,
        "width": 256,
        "prefix": 10,
        "layers": 2,
        "heads": 4,
        "dropout": 0.0,
    },
    "gpt2": {
        "vocab_size": 3000,
        "n_positions": 64,
        "n_embd": 256,
        "n_layer": 4,
        "n_head": 4,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}
SAVE_STEPS = 250
"""Steps between two saves of a stage without evaluation, so that a crash costs minutes."""


@dataclass(frozen=True, slots=True)
class Stage(steps.Stage):
    """One stage of training, and how often it is evaluated."""

    evaluate_every: int = 0
    """Steps; 0: never, for a stage that does not train GPT-2."""


WORDING = CaptionStageOptions(
    steps=800,
    real=40,
    scenes=48,
    captions=5,
    sentences=1.0,
    learning_rate=8e-4,
    warmup=50,
    word_dropout=0.08,
    orthogonal=True,
)
STAGES = (
    # The encoder: distillation stage by stage, and the attributes of synthetic scenes.
    Stage(
        "sight",
        JointOptions(
            steps=3200,
            real=40,
            scenes=10,
            captions=0,
            sentences=0.0,
            mixup_prob=0.3,
            learning_rate=2e-3,
            weight_decay=0.02,
            orthogonal=True,
        ),
    ),
    # Mapping and GPT-2, on stored features of that encoder.
    Stage("wording", WORDING, evaluate_every=400),
    # Encoder and mapping, by captions and distillation: captions are about more than the teacher's classes.
    Stage(
        "together",
        JointOptions(
            steps=1600,
            real=40,
            scenes=10,
            captions=1,
            sentences=0.5,
            teacher_forcing=0.0,
            distill_weight=2.0,
            learning_rate=1e-3,
            warmup=50,
            weight_decay=0.02,
            orthogonal=True,
            train_decoder=False,
        ),
        evaluate_every=400,
    ),
    # Mapping and GPT-2 again, on features of the new encoder.
    Stage("rewording", replace(WORDING, steps=400, learning_rate=4e-4, warmup=25), evaluate_every=400),
    # Self-critical training: the reward is the metric.
    Stage(
        "critic",
        ScstOptions(
            steps=225, real=24, scenes=96, captions=1, sentences=1.0, learning_rate=3e-4, warmup=20, weight_decay=0.0
        ),
        evaluate_every=225,
    ),
    # The mean of the weights of both is better on real images than either.
    Stage(
        "halfway",
        CaptionStageOptions(steps=0, real=16, scenes=128, captions=4),
        after=("rewording", "critic"),
        evaluate_every=1,
    ),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of one call, and how to run them."""

    stages: tuple[Stage, ...]
    chosen: frozenset[str]
    """Names of the stages to run. Of the others, only the saved weights are used."""
    views_kept: int = 4
    """Views stored for each real image."""
    other_settings: bool = False
    """Resume a stage even if it was started with other settings."""
    open_teacher: Callable[[], Teacher | None] = lambda: None


def plan(names: str | None, scale: float, views_kept: int, *, other_settings: bool = False) -> Plan:
    """Select the stages `names` (comma-separated; None: all) and multiply their steps by `scale`. Raises InputError."""
    chosen = steps.chosen_stages(names, [stage.name for stage in STAGES])
    if views_kept < 1:
        raise InputError(f"--views-kept {views_kept}: must be at least 1")
    return Plan(steps.scale_stages(STAGES, scale), chosen, views_kept, other_settings)


def train(data: Data, run: Path, planned: Plan, stopped: Callable[[], bool]) -> None:
    """Run the chosen stages that are not done yet. Each starts from the weights of the newest stage before it.

    RUN/best gets the best model by the dev split. stopped: returns True once the user has asked to stop.
    """

    def run_stage(stage: Stage, previous: list[Path]) -> None:
        _run_stage(stage, data, run, previous, planned, stopped)

    steps.run_stages(planned.stages, planned.chosen, run, stopped, run_stage)


def _run_stage(
    stage: Stage, data: Data, run: Path, previous: list[Path], planned: Plan, stopped: Callable[[], bool]
) -> None:
    trainer = _trainer(stage, data, planned.open_teacher)
    recent = steps.start_or_go_on(trainer, run / f"{stage.name}.pt", previous, other_settings=planned.other_settings)
    if isinstance(trainer, CaptionStageTrainer) and not previous:
        raise InputError(f"{run}: the stage {stage.name} needs the encoder of an earlier stage; run that stage first")
    if isinstance(trainer, CaptionStageTrainer) and stage.options.steps:
        log.info("%s: encoding the images with the frozen encoder", stage.name)
        try:
            real, scenes = data.train.pixels, data.scenes.pixels
            trainer.learn_from(
                store_features(run, trainer.vision, PICTURE, real, scenes, planned.views_kept, stopped=stopped)
            )
        except StoppedError:
            return
    steps.run_steps(
        trainer,
        stage.name,
        run,
        stopped,
        save_every=SAVE_STEPS,
        evaluate=partial(_evaluate, trainer, data, run, stage.name) if stage.evaluate_every else None,
        evaluate_every=stage.evaluate_every,
        recent=recent,
    )


def _evaluate(trainer: StageTrainer, data: Data, run: Path, name: str, curves: Curves) -> None:
    evaluate_stage(trainer, CONFIG, data, run, name, curves)


def _trainer(stage: Stage, data: Data, open_teacher: Callable[[], Teacher | None]) -> StageTrainer:
    options, sentences = stage.options, data.sentences()
    if isinstance(options, ScstOptions):
        return ScstTrainer(CONFIG, PICTURE, options, data.train.tokens, sentences, 0, data.tokenizer)
    if isinstance(options, CaptionStageOptions):
        return CaptionStageTrainer(CONFIG, PICTURE, options, data.train.tokens, sentences, stop=0)
    teacher = open_teacher() if options.distill_weight else None
    return JointTrainer(CONFIG, PICTURE, options, data.train, data.scenes, sentences, 0, teacher)


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 2 for wrong use, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m streamcap.training.mini.recipe", description=__doc__)
    parser.add_argument("source", type=Path, help="Flickr8k's folder")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--teacher", type=Path, help="the tflite file; without it the encoder learns from synthetic scenes only"
    )
    parser.add_argument("--views-kept", type=int, default=4, help="views stored for each real image")
    steps.add_options(parser)
    return steps.run_recipe(parser, arguments, _run)


def _run(given: Any, stopped: Callable[[], bool]) -> None:
    planned = plan(given.stages, given.scale, given.views_kept, other_settings=given.other_settings)
    if given.teacher is not None:
        planned = replace(planned, open_teacher=lambda: TfliteTeacher(given.teacher, PICTURE.width))
    data = prepare(given.source, given.run, CONFIG["gpt2"]["vocab_size"])
    train(data, given.run, planned, stopped)


if __name__ == "__main__":
    sys.exit(main())
