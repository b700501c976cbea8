"""The second half of `mini`'s recipe: from a checkpoint of `mini.recipe` to one that says what it sees.

    python -m streamcap.training.mini.recipe FLICKR8K FIRST --teacher mobilenet_v2_1.0_224_ptq.tflite
    python -m streamcap.training.mini.grounding.recipe FLICKR8K POOL RUN --start FIRST/best --text sentences.txt.gz

POOL holds `labels.csv`, `captions.csv`, `teachers.jsonl.gz` and the images, in `images-176.tar` or a folder `images`;
what is held out (`training.held_out`) is never read. All that is made on the way is kept in RUN; the same command goes
on where it was stopped (SIGTERM and Ctrl-C save first). The model is exported to RUN/model.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from streamcap.atomic import read_json
from streamcap.captioner import registry
from streamcap.captioner.kernels.precision import find_device
from streamcap.captioner.models.mini_encoder import LOGIT_SCALE, build_vision
from streamcap.errors import InputError, StreamcapError
from streamcap.training.curves import Curves, draw_curves
from streamcap.training.mini.augment import normalize
from streamcap.training.mini.grounding.pool import PoolData, prepare_pool
from streamcap.training.mini.grounding.tags import CLASSES, SCENES, TAGS
from streamcap.training.mini.grounding.trainer import GroundedSettings, GroundedTrainer
from streamcap.training.mini.grounding.warm_start import extend_embedding, unfold
from streamcap.training.mini.recipe import CONFIG, CURVE_STEPS, PICTURE
from streamcap.training.mini.stage import read_state

log = logging.getLogger(__name__)

HIDDEN = 256
"""Width of what the tag heads make of a cell."""
SAVE_STEPS = 100
UNFOLD_IMAGES = 512


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training."""

    name: str
    options: GroundedSettings


STAGES = (
    # The new heads and words alone, on an encoder that stays as it is.
    Stage(
        "heads",
        GroundedSettings(
            steps=100,
            real_batch=32,
            synthetic_batch=8,
            text_batch=16,
            learning_rate=1e-3,
            warmup=20,
            weight_decay=0.02,
            orthogonal=True,
            average=0.98,
            train_encoder=False,
        ),
    ),
    # Everything at once.
    Stage(
        "ground",
        GroundedSettings(
            steps=780,
            real_batch=40,
            synthetic_batch=8,
            text_batch=8,
            learning_rate=7e-4,
            warmup=50,
            weight_decay=0.02,
            word_dropout=0.05,
            orthogonal=True,
            average=0.99,
        ),
    ),
    # The words, on an encoder that stays as it is: mostly captions by people.
    Stage(
        "words",
        GroundedSettings(
            steps=250,
            real_batch=40,
            synthetic_batch=8,
            text_batch=4,
            captioned_share=0.65,
            learning_rate=4e-4,
            warmup=20,
            weight_decay=0.02,
            word_dropout=0.08,
            orthogonal=True,
            average=0.98,
            train_encoder=False,
        ),
    ),
)


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The checkpoint's configuration, with the tags' names."""
    return {
        "vision": CONFIG["vision"],
        "mapping": {**CONFIG["mapping"], "architecture": "tagged_grid", "tags": len(TAGS), "hidden": HIDDEN},
        "gpt2": {**CONFIG["gpt2"], "vocab_size": tokenizer.get_vocab_size()},
        "tags": {"objects": list(CLASSES), "scenes": list(SCENES)},
    }


def start_weights(trainer: GroundedTrainer, start: Path, data: PoolData) -> None:
    """Load a released checkpoint of `mini.recipe` into a fresh trainer. Raises InputError where it does not fit."""
    from safetensors.torch import load_file

    config = read_json(start / "config.json")
    weights = {key: value.float() for key, value in load_file(start / "model.safetensors").items()}
    model, fresh = trainer.model, trainer.model.state_dict()
    assert model.vision is not None  # noqa: S101  a stage's model always has one
    released = build_vision(config["vision"])
    released.load_state_dict(_part(weights, "vision."))
    rows = np.linspace(0, len(data.images.pixels) - 1, UNFOLD_IMAGES).astype(np.int64)
    unfold(released, model.vision, [_batch(data, some) for some in np.array_split(rows, 8)])
    old = Tokenizer.from_file(str(start / "tokenizer.json"))
    words = extend_embedding(weights["gpt.transformer.wte.weight"], old, data.tokenizer)
    weights["gpt.transformer.wte.weight"] = words
    weights["gpt.lm_head.weight"] = words
    for name in fresh:
        if name.startswith("vision."):
            continue
        if name in weights and weights[name].shape == fresh[name].shape:
            fresh[name].copy_(weights[name])
        elif not name.startswith(("mapping.tag_heads.", "mapping.tags.", "mapping.blind")):
            raise InputError(f"{start}: has no {name} of shape {tuple(fresh[name].shape)}; start from mini.recipe")
    if "mapping.tag_heads.project_out.bias" not in weights:
        set_prior(model.mapping, data)
    trainer.ema.load_state_dict(model.state_dict())


@torch.no_grad()
def set_prior(mapping: Any, data: PoolData) -> None:
    """Start the tag heads at how often each tag is true: else their first hundred steps learn nothing but that."""
    chances = data.images.chances[:, None] * data.images.weights
    share = (chances * data.images.values).sum(0) / np.maximum(chances.sum(0), 1e-6)
    share = np.clip(share, 1e-3, 0.999)
    mapping.tag_heads.project_out.bias.copy_(torch.from_numpy(np.log(share / (1 - share)) / LOGIT_SCALE))


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _batch(data: PoolData, rows: Any) -> Tensor:
    planes = torch.from_numpy(np.array(data.images.pixels[rows])).permute(0, 3, 1, 2).float() / 255
    planes = torch.nn.functional.interpolate(planes, (PICTURE.height, PICTURE.width), mode="area")
    return normalize(planes, PICTURE)


def train(
    data: PoolData,
    run: Path,
    start: Path,
    stages: tuple[Stage, ...],
    stopped: Callable[[], bool],
    *,
    device: torch.device | None = None,
    other_settings: bool = False,
) -> None:
    """Run the stages that are not done yet, each from the weights of the one before it."""
    previous: Path | None = None
    config = model_config(data.tokenizer)
    for stage in stages:
        state, done = run / f"{stage.name}.pt", run / f"{stage.name}.done"
        if not done.is_file():
            trainer = GroundedTrainer(
                config, PICTURE, stage.options, data.images, data.synthetic, data.text, stop=0, device=device
            )
            if state.is_file():
                trainer.restore(state, other_settings=other_settings)
            elif previous is not None:
                trainer.start_from(read_state(previous))
            else:
                start_weights(trainer, start, data)
            run_stage(stage, trainer, run, stopped)
            if stopped():
                return
            done.touch()
        previous = state


def run_stage(stage: Stage, trainer: GroundedTrainer, run: Path, stopped: Callable[[], bool]) -> None:
    """The steps of one stage that are left, saved every `SAVE_STEPS` and at the end."""
    state = run / f"{stage.name}.pt"
    curves = Curves(run / f"{stage.name}.csv", trainer.step)
    recent: list[dict[str, float]] = []
    began, first = time.monotonic(), trainer.step
    while trainer.step < stage.options.steps and not stopped():
        recent.append(trainer.run_step())
        if trainer.step % CURVE_STEPS == 0:
            keys = {key for parts in recent for key in parts}
            means = {key: float(np.mean([parts[key] for parts in recent if key in parts])) for key in sorted(keys)}
            curves.add(step=trainer.step, epoch=0, learning_rate=trainer.learning_rate(), loss=sum(means.values()))
            recent.clear()
            speed = (trainer.step - first) / (time.monotonic() - began)
            on_progress = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
            log.info("%s %d/%d, %.2f steps/s: %s", stage.name, trainer.step, stage.options.steps, speed, on_progress)
        if trainer.step % SAVE_STEPS == 0:
            trainer.save(state)
    trainer.save(state)
    draw_curves(run / f"{stage.name}.csv", run / f"{stage.name}.png", f"mini, {stage.name}")


def export_model(run: Path, target: Path, stage: str, data_tokenizer: Tokenizer) -> None:
    """Write the running mean of a stage's weights as a checkpoint."""
    from streamcap.training.export import export_native
    from streamcap.training.model import CaptionModel

    config = model_config(data_tokenizer)
    model = CaptionModel(*_modules(config))
    model.load_state_dict(read_state(run / f"{stage}.pt")["mean"])
    export_native(target, model.eval(), config, PICTURE, data_tokenizer)


def _modules(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    from streamcap.captioner.models.mini_encoder import build_mapping
    from streamcap.training.gpt2 import build_gpt2

    return build_vision(config["vision"]), build_mapping(config["mapping"]), build_gpt2(dict(config["gpt2"]))


def _stages(scale: float) -> tuple[Stage, ...]:
    if scale <= 0:
        raise InputError("--scale is above 0")
    return tuple(
        replace(one, options=replace(one.options, steps=max(1, round(one.options.steps * scale)))) for one in STAGES
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 2 for wrong use, with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m streamcap.training.mini.grounding.recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("flickr", type=Path, help="Flickr8k's folder")
    parser.add_argument("pool", type=Path, help="the pool's folder")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--start", default="mini", help="checkpoint of mini.recipe to start from")
    parser.add_argument("--text", type=Path, help="sentences.txt.gz: sentences without images")
    parser.add_argument("--flickr-labels", type=Path, help="teachers.jsonl of Flickr8k's images")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument(
        "--other-settings", action="store_true", help="go on with a stage although it was started with other settings"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="times as many steps in every stage")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)
    if given.threads:
        torch.set_num_threads(given.threads)
    asked: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: asked.append(number))
    try:
        start = registry.find_checkpoint(given.start)
        tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
        data = prepare_pool(given.flickr, given.pool, given.text, given.flickr_labels, given.run, tokenizer)
        train(
            data,
            given.run,
            start,
            _stages(given.scale),
            lambda: bool(asked),
            device=find_device(given.device),
            other_settings=given.other_settings,
        )
        if not asked:
            export_model(given.run, given.run / "model", STAGES[-1].name, data.tokenizer)
    except StreamcapError as error:
        log.error("%s", error)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
