"""The second half of `mini`'s recipe: from a checkpoint with tag heads to one that says what it sees.

    python -m streamcap.training.mini.recipe FLICKR8K FIRST --teacher mobilenet_v2_1.0_224_ptq.tflite
    python -m streamcap.training.mini.grounding.tag_heads FLICKR8K POOL HEADS --start FIRST/best
    python -m streamcap.training.mini.grounding.recipe FLICKR8K POOL RUN --start HEADS/model --text sentences.txt.gz

POOL holds `labels.csv`, `captions.csv`, `teachers.jsonl.gz` and the images, in `images-176.tar` or a folder `images`;
what is held out (`training.held_out`) is never read. All that is made on the way is kept in RUN; the same command goes
on where it was stopped (SIGTERM and Ctrl-C save first). The model is exported to RUN/model.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from streamcap.atomic import read_json
from streamcap.captioner import registry
from streamcap.captioner.checkpoints.tensors import strip_prefix
from streamcap.captioner.kernels.precision import find_device
from streamcap.captioner.models.mini_encoder import LOGIT_SCALE, build_vision
from streamcap.errors import InputError
from streamcap.training.mini import steps
from streamcap.training.mini.augment import normalize
from streamcap.training.mini.features import StoppedError
from streamcap.training.mini.grounding.critic import CriticSettings, CriticTrainer
from streamcap.training.mini.grounding.data.pool import PoolData, prepare_pool
from streamcap.training.mini.grounding.data.tags import CLASSES, SCENES, TAGS
from streamcap.training.mini.grounding.stored import StoredSettings, StoredTrainer, store_grids
from streamcap.training.mini.grounding.trainer import GroundedSettings, GroundedTrainer
from streamcap.training.mini.grounding.warm_start import extend_embedding, unfold
from streamcap.training.mini.recipe import CONFIG, PICTURE
from streamcap.training.mini.stages.stage import read_state

log = logging.getLogger(__name__)

HIDDEN = 256
"""Width of what the tag heads make of a cell."""
SAVE_STEPS = 100
UNFOLD_IMAGES = 512


@dataclass(frozen=True, slots=True)
class Stage(steps.Stage):
    """One stage of training."""

    wide: bool = False
    """On `PoolData.wide` instead of `PoolData.images`."""


GROUND = GroundedSettings(
    steps=600,
    real_batch=48,
    synthetic_batch=6,
    text_batch=6,
    captions=2,
    pseudo_weight=0.2,
    tag_weight=0.1,
    distant_share=0.2,
    learning_rate=4e-4,
    warmup=40,
    weight_decay=0.02,
    word_dropout=0.05,
    orthogonal=True,
    average=0.99,
)
WORDS = StoredSettings(
    steps=500,
    real_batch=56,
    synthetic_batch=20,
    text_batch=32,
    captioned_share=0.75,
    captions=4,
    pseudo_weight=0.25,
    tag_weight=0.1,
    learning_rate=6e-4,
    warmup=30,
    weight_decay=0.05,
    dropout=0.1,
    word_dropout=0.08,
    orthogonal=True,
    average=0.99,
)
CRITIC = CriticSettings(
    steps=150,
    real_batch=32,
    synthetic_batch=40,
    text_batch=8,
    captioned_share=0.7,
    captions=1,
    synthetic_weight=1.0,
    tag_weight=0.1,
    learning_rate=3e-4,
    warmup=20,
    weight_decay=0.0,
    average=0.98,
)
NAMING = replace(
    CRITIC,
    steps=90,
    real_batch=44,
    synthetic_batch=16,
    text_batch=0,
    captioned_share=0.7,
    warmup=10,
    average=0.99,
    pseudo_cider=0.5,
    false_penalty=0.1,
    main_bonus=0.6,
    seed=4,
)
"""False words cost less and the main object gives more: at decoding the tags hold false words back."""
STAGES = (
    # Everything at once, at a rate that keeps what the start's encoder knows.
    Stage("ground", GROUND),
    # Tag heads and words, on stored grids of what the encoder has become.
    Stage("words", WORDS),
    # The words once more, by what they are judged by.
    Stage("critic", CRITIC),
    # And again, from the mean of all three, mostly on images that people captioned; its rate never came far down.
    Stage(
        "critic_again",
        replace(
            CRITIC, steps=40, schedule=80, text_batch=0, captioned_share=0.85, learning_rate=2e-4, warmup=5, seed=1
        ),
        after=("ground", "words", "critic"),
    ),
    # Everything at once a second time, from the mean of all, with renders and borrowed captions.
    Stage(
        "ground_again",
        replace(GROUND, steps=1200, text_batch=8, captions=3, pseudo_weight=0.3, seed=2),
        after=("ground", "words", "critic", "critic_again"),
        wide=True,
    ),
    Stage("critic_naming", NAMING, wide=True),
    # Ends long before its learning rate is low, as it did when it was run.
    Stage("critic_naming_again", replace(NAMING, schedule=200, seed=6), wide=True),
    # Everything at once a third time, with four captions of an image, then the words by reward again.
    Stage(
        "ground_third",
        replace(GROUND, steps=800, text_batch=8, captions=4, pseudo_weight=0.3, seed=5),
        after=("ground_again", "critic_naming"),
        wide=True,
    ),
    Stage("critic_third", replace(NAMING, steps=300, seed=6), wide=True),
    Stage(
        "mean",
        replace(WORDS, steps=0),
        after=("ground_again", "critic_naming_again", "ground_third", "critic_third"),
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
    released.load_state_dict(strip_prefix(weights, "vision."))
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
    chosen: Collection[str] | None = None,
    device: torch.device | None = None,
    other_settings: bool = False,
) -> None:
    """Run the stages that are not done yet, each from the weights of the one before it. chosen: the names of those to
    run, None for all; the others only give their weights."""
    names = [stage.name for stage in stages] if chosen is None else chosen

    def run_stage(stage: Stage, previous: list[Path]) -> None:
        trainer = make_trainer(stage, data, device)
        state = run / f"{stage.name}.pt"
        recent = steps.start_or_go_on(trainer, state, previous, other_settings=other_settings)
        if not previous and not state.is_file():
            start_weights(trainer, start, data)
        if isinstance(trainer, StoredTrainer) and stage.options.steps:
            log.info("%s: grids of the encoder as it is", stage.name)
            try:
                trainer.learn_from(
                    store_grids(run, trainer.vision, PICTURE, data.images, data.synthetic, trainer.device, stopped)
                )
            except StoppedError:
                return
        steps.run_steps(trainer, stage.name, run, stopped, save_every=SAVE_STEPS, recent=recent)

    steps.run_stages(stages, names, run, stopped, run_stage)


def make_trainer(stage: Stage, data: PoolData, device: torch.device | None) -> GroundedTrainer:
    """The trainer that a stage's options ask for."""
    images = data.wide if stage.wide else data.images
    given = model_config(data.tokenizer), PICTURE, stage.options, images, data.synthetic, data.text
    match stage.options:
        case CriticSettings():
            return CriticTrainer(*given, stop=0, device=device, tokenizer=data.tokenizer)
        case StoredSettings():
            return StoredTrainer(*given, stop=0, device=device)
        case _:
            return GroundedTrainer(*given, stop=0, device=device)


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
    parser.add_argument("--start", default="mini", help="checkpoint of grounding.tag_heads to start from")
    parser.add_argument("--text", type=Path, help="sentences.txt.gz: sentences without images")
    parser.add_argument("--flickr-labels", type=Path, help="teachers.jsonl of Flickr8k's images")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    steps.add_options(parser)
    return steps.run_recipe(parser, arguments, _run)


def _run(given: Any, stopped: Callable[[], bool]) -> None:
    stages = steps.scale_stages(STAGES, given.scale)
    chosen = steps.chosen_stages(given.stages, [stage.name for stage in stages])
    start = registry.find_checkpoint(given.start)
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    data = prepare_pool(given.flickr, given.pool, given.text, given.flickr_labels, given.run, tokenizer)
    device = find_device(given.device)
    train(data, given.run, start, stages, stopped, chosen=chosen, device=device, other_settings=given.other_settings)
    last = next((stage.name for stage in reversed(stages) if (given.run / f"{stage.name}.done").is_file()), None)
    if last is not None and not stopped():
        export_model(given.run, given.run / "model", last, data.tokenizer)


if __name__ == "__main__":
    sys.exit(main())
