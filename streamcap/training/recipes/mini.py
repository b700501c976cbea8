"""The recipe of `mini`, the model in the package. From Flickr8k's folder to the shipped files:

    python -m streamcap.training.recipes.mini FLICKR8K RUN --teacher mobilenet_v2_1.0_224_ptq.tflite

FLICKR8K holds `results.csv`, `train.txt`, `dev.txt` and the pictures, in `images-192.tar` or a folder `images`. All
that is made on the way is kept in RUN; the same command goes on where it was stopped (SIGTERM and Ctrl-C save first).
The best model by the dev split is in RUN/best. The test split is not read.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from streamcap.errors import InputError, StreamcapError
from streamcap.media.scenes import every_scene
from streamcap.picture import PictureSpec
from streamcap.training import drawn
from streamcap.training.cache import write_bytes, write_json
from streamcap.training.clips import UnreadableError, read_picture
from streamcap.training.corpus import Item, MediaFolder, read_flickr
from streamcap.training.curves import Curves, draw_curves
from streamcap.training.export import export_native
from streamcap.training.joint import JointSettings, JointTrainer, RealPictures
from streamcap.training.scores import score
from streamcap.training.teacher import Teacher, read_lesson, write_lesson
from streamcap.training.text import make_tokenizer, normalise

log = logging.getLogger(__name__)

PICTURE = PictureSpec(128, 128, "squash", "area", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STORED = PictureSpec(192, 192, "squash", "bicubic")
"""How the real pictures are kept: training crops from there."""
CONFIG: dict[str, Any] = {
    "vision": {"architecture": "resnet", "stem": 16, "widths": [32, 64, 128, 256], "depths": [1, 1, 2, 1]},
    "mapping": {
        "architecture": "grid",
        "cells": 16,
        "channels": 256,
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
DRAWN_TRAIN, DRAWN_DEV = 30_000, 500
TRAIN_SEED, DEV_SEED = 1, 999
EXACT_ENOUGH = 0.95
"""Share of drawn scenes that must be right word for word before real pictures decide which model is best."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training and how often it is judged."""

    name: str
    settings: JointSettings
    judge_every: int


STAGES = (
    # Cheap steps that make the encoder see: the teacher's features of real pictures, and what drawn scenes show.
    Stage("taught", JointSettings(steps=5000, real=36, scenes=12, captions=0, learning_rate=1.5e-3), 2500),
    # Everything, to the captions.
    Stage(
        "captions",
        JointSettings(steps=9000, real=24, scenes=12, captions=5, learning_rate=8e-4, dropout=0.1, average=0.998),
        400,
    ),
)


@dataclass(slots=True)
class Data:
    """All that is trained and judged on."""

    tokenizer: Tokenizer
    train: RealPictures
    dev_pixels: np.ndarray[Any, np.dtype[np.uint8]]
    dev_captions: list[tuple[str, ...]]
    scenes: drawn.DrawnPictures
    scenes_dev: drawn.DrawnPictures


def prepare(source: Path, run: Path, teacher: Path | None, views: int) -> Data:
    """Everything the stages need, from RUN where an earlier call has left it. Raises InputError."""
    run.mkdir(parents=True, exist_ok=True)
    tar = source / "images-192.tar"
    media = MediaFolder(tar if tar.is_file() else source / "images")
    corpus = read_flickr(source / "results.csv", media, {split: source / f"{split}.txt" for split in ("train", "dev")})
    train, dev = corpus.splits["train"], corpus.splits["dev"]
    pixels = {split: _pixels(run / f"{split}.npy", corpus.splits[split], media) for split in ("train", "dev")}
    captions = [[normalise(caption) for caption in item.captions] for item in train]
    tokenizer = _tokenizer(run / "tokenizer.json", captions)
    lessons = _lessons(run, teacher, pixels["train"], views)
    tokens = [[encoded.ids for encoded in tokenizer.encode_batch(several)] for several in captions]
    return Data(
        tokenizer,
        RealPictures(pixels["train"], tokens, lessons),
        pixels["dev"],
        [item.captions for item in dev],
        drawn.cached_pictures(run, "drawn-train", DRAWN_TRAIN, TRAIN_SEED),
        drawn.cached_pictures(run, "drawn-dev", DRAWN_DEV, DEV_SEED),
    )


def train(data: Data, run: Path, stages: tuple[Stage, ...], stopped: Callable[[], bool]) -> None:
    """Run the stages that are not done yet; the best model by the dev split is in RUN/best."""
    previous: Path | None = None
    for stage in stages:
        state, done = run / f"{stage.name}.pt", run / f"{stage.name}.done"
        if done.is_file():
            previous = state
            continue
        _run_stage(stage, data, run, previous, stopped)
        if stopped():
            return
        done.touch()
        previous = state


def _run_stage(stage: Stage, data: Data, run: Path, previous: Path | None, stopped: Callable[[], bool]) -> None:
    real = data.train if stage.settings.real else None
    sentences = [encoded.ids for encoded in data.tokenizer.encode_batch(data.scenes.sentences)]
    trainer = JointTrainer(CONFIG, PICTURE, stage.settings, real, data.scenes, sentences, stop=0)
    state = run / f"{stage.name}.pt"
    if state.is_file():
        trainer.restore(state)
    elif previous is not None:
        trainer.start_from(torch.load(previous, map_location="cpu", weights_only=True))
    curves = Curves(run / f"{stage.name}.csv", trainer.step)
    recent: list[float] = []
    began, first = time.monotonic(), trainer.step
    while trainer.step < stage.settings.steps and not stopped():
        parts = trainer.run_step()
        recent.append(sum(parts.values()))
        if trainer.step % 50 == 0:
            curves.add(step=trainer.step, epoch=0, learning_rate=trainer.learning_rate(), loss=float(np.mean(recent)))
            recent.clear()
            speed = (trainer.step - first) / (time.monotonic() - began)
            told = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
            log.info("%s %d/%d, %.2f steps/s: %s", stage.name, trainer.step, stage.settings.steps, speed, told)
        if trainer.step % stage.judge_every == 0 or trainer.step == stage.settings.steps:
            judge(trainer, data, run, stage.name, curves)
            trainer.save(state)
    trainer.save(state)
    draw_curves(run / f"{stage.name}.csv", run / f"{stage.name}.png", f"mini, {stage.name}")


def judge(trainer: JointTrainer, data: Data, run: Path, stage: str, curves: Curves) -> dict[str, float]:
    """Caption the dev pictures and the unseen drawn scenes by the captioner that users run; keep the best."""
    from streamcap.captioner import load_captioner

    tried = run / "tried"
    export_native(tried, trainer.mean, CONFIG, PICTURE, data.tokenizer)
    captioner = load_captioner(str(tried), device="cpu", precision="fp32")
    said = [result.text for result in captioner.caption(list(np.array(data.scenes_dev.pixels)))]
    exact = float(np.mean([one == other for one, other in zip(said, data.scenes_dev.sentences, strict=True)]))
    scores = score([result.text for result in captioner.caption(list(np.array(data.dev_pixels)))], data.dev_captions)
    curves.add(step=trainer.step, epoch=0, dev_cider=scores.cider, dev_bleu4=scores.bleu4)
    found = {"scenes_exact": exact, **{f"dev_{name}": value for name, value in scores.summary().items()}}
    log.info("%s %d: %s", stage, trainer.step, json.dumps(found))
    best = run / "best" / "scores.json"
    before = json.loads(best.read_text(encoding="utf-8")) if best.is_file() else None
    if before is None or rank(found) > rank(before):
        best.parent.mkdir(exist_ok=True)
        for file in tried.iterdir():
            write_bytes(best.parent / file.name, file.read_bytes())
        write_json(best, {"stage": stage, "step": trainer.step, **found})
    return found


def rank(scores: dict[str, float]) -> tuple[float, float]:
    """Drawn scenes first, until enough are right; from there on CIDEr on real pictures."""
    return min(scores["scenes_exact"], EXACT_ENOUGH), scores["dev_cider"]


def _pixels(path: Path, items: list[Item], media: MediaFolder) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(n, 192, 192, 3), memory-mapped."""
    if not path.is_file():
        part = path.with_suffix(".part.npy")
        out = np.lib.format.open_memmap(part, "w+", np.uint8, (len(items), STORED.height, STORED.width, 3))
        for i, item in enumerate(items):
            try:
                out[i] = read_picture(media.read(item.name), STORED)
            except (UnreadableError, OSError) as error:
                raise InputError(f"{item.name}: broken ({error}); take it out of {media.path} and the split") from None
        out.flush()
        part.replace(path)
    found: np.ndarray[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r")
    if len(found) != len(items):
        raise InputError(f"{path}: holds {len(found)} pictures, the split has {len(items)}; name another folder")
    return found


def _tokenizer(path: Path, captions: list[list[str]]) -> Tokenizer:
    if not path.is_file():
        # The drawn scenes' sentences twice, or a few of their words would be cut into letters.
        sentences = [scene.sentence for scene in every_scene()] * 2
        flat = [caption for several in captions for caption in several] + sentences
        write_bytes(path, make_tokenizer(flat, CONFIG["gpt2"]["vocab_size"]).to_str().encode())
    return Tokenizer.from_file(str(path))


def _lessons(run: Path, path: Path | None, pixels: np.ndarray[Any, np.dtype[np.uint8]], views: int) -> Any:
    if path is None:
        return None
    teacher: Teacher | None = None
    lessons = []
    for view in range(views):
        lesson = read_lesson(run, view)
        if lesson is None:
            teacher = teacher or Teacher(path)
            log.info("the teacher looks at view %d of %d", view + 1, views)
            write_lesson(run, teacher, pixels, view)
            lesson = read_lesson(run, view)
        lessons.append(lesson)
    return lessons


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 2 for wrong use, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m streamcap.training.recipes.mini", description=__doc__)
    parser.add_argument("source", type=Path, help="Flickr8k's folder")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--teacher", type=Path, help="the tflite file; without it the encoder learns from captions alone"
    )
    parser.add_argument("--views", type=int, default=8, help="crops of every picture that the teacher looks at")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many steps in every stage")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)
    if given.threads:
        torch.set_num_threads(given.threads)
    asked: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: asked.append(number))
    stages = tuple(
        replace(stage, settings=replace(stage.settings, steps=max(1, round(stage.settings.steps * given.scale))))
        for stage in STAGES
    )
    try:
        data = prepare(given.source, given.run, given.teacher, given.views)
        train(data, given.run, stages, lambda: bool(asked))
    except StreamcapError as error:
        log.error("%s", error)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
