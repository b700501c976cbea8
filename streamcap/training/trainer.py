"""Training on a feature cache: teacher forcing, the best checkpoint by dev CIDEr, exact resumption."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from streamcap.atomic import make_directory, read_json, write_json
from streamcap.errors import InputError, StreamcapError
from streamcap.training.checkpoint import bundled_vision, save_checkpoint
from streamcap.training.curves import Curves, draw_curves
from streamcap.training.data.feature_cache import Example, FeatureCache, digest
from streamcap.training.data.text import normalize
from streamcap.training.evaluation.evaluation import caption_cache
from streamcap.training.evaluation.scores import Scores, score
from streamcap.training.export import copy_checkpoint
from streamcap.training.gpt2 import start_from, stored_config
from streamcap.training.mappings import build_mapping
from streamcap.training.model import CaptionModel, pack
from streamcap.training.optim import decay_groups, load_state, save_state, warm_cosine
from streamcap.training.options import TrainOptions

log = logging.getLogger(__name__)

LOG_STEPS = 20
"""Steps per row of curves.csv; the row holds their mean loss."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Reported after every step, and after every epoch with the dev scores."""

    step: int
    steps: int
    epoch: int
    loss: float
    dev: Scores | None = None


class Trainer:
    """One run in a folder: settings.json, last.pt, curves.csv, curves.png and best/, the checkpoint to use.

    Raises InputError if the folder holds a run with other settings or another cache, or if it holds a run and `resume`
    is false; nothing is overwritten.
    """

    def __init__(
        self, options: TrainOptions, cache: FeatureCache, folder: Path, device: torch.device, *, resume: bool = False
    ) -> None:
        self.options, self.cache, self.folder, self.device = options, cache, folder, device
        self._train = cache.examples("train")
        self._dev = cache.examples("dev") if "dev" in cache.splits else []
        self._check(resume)
        torch.manual_seed(options.seed)
        gpt, self.tokenizer = start_from(options, (c for example in self._train for c in example.captions))
        shape = cache.features("train", self._train[:1]).shape[1:]
        self.built = build_mapping(options, shape, gpt.config.n_embd)
        if self.built.layout == "streamcap":
            bundled_vision(cache)  # fail now, not after the first epoch
        self.model = CaptionModel(None, self.built.module, gpt, two_pass=self.built.layout == "videocaptioner")
        self.model.to(device)
        if not options.train_gpt2:
            gpt.requires_grad_(False)
        self._tokens = _tokenize(self.tokenizer, self._train, options.max_tokens)
        self._stop = int(stored_config(gpt)["eos_token_id"])
        self._optimizer = torch.optim.AdamW(
            decay_groups(self.model.named_parameters(), options.weight_decay), lr=options.learning_rate
        )
        half = device.type == "cuda"
        self._autocast = torch.bfloat16 if half and torch.cuda.is_bf16_supported() else torch.float16
        self._scaler = torch.amp.GradScaler(device.type, enabled=half and self._autocast is torch.float16)
        # A separate generator, so that the order of the data does not depend on dropout.
        self._generator = torch.Generator().manual_seed(options.seed)
        self.step, self.epoch, self.best = 0, 0, -math.inf
        if resume and (folder / "last.pt").is_file():
            self._restore()
        # Last, so that a run that cannot start leaves no folder behind.
        if not resume:
            make_directory(folder)
            write_json(folder / "settings.json", self._identity)
        self._curves = Curves(folder / "curves.csv", self.step)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.options.epochs * self._epoch_steps

    @property
    def _epoch_steps(self) -> int:
        return math.ceil(len(self._train) / (self.options.batch * self.options.grad_accum))

    def run(self, on_progress: Callable[[Progress], None] = lambda progress: None, *, until: int | None = None) -> None:
        """Train to the end, or to the end of epoch `until`. Raises StreamcapError if the loss is not finite."""
        while self.epoch < min(self.options.epochs, until or self.options.epochs):
            self._run_epoch(on_progress)
            self.epoch += 1
            dev = self._evaluate()
            on_progress(Progress(self.step, self.steps, self.epoch, math.nan, dev))
            self._save()
        draw_curves(self.folder / "curves.csv", self.folder / "curves.png", self.folder.name)

    def best_checkpoint(self) -> dict[str, Any]:
        """`step` and `epoch` of the checkpoint in best/, and `dev`, its scores, None without a dev split."""
        scores = self.folder / "best" / "scores.json"
        if not scores.is_file():
            return {"step": self.step, "epoch": self.epoch, "dev": None}
        saved = read_json(scores)
        return {"step": saved["epoch"] * self._epoch_steps, "epoch": saved["epoch"], "dev": saved["dev"]}

    def _run_epoch(self, on_progress: Callable[[Progress], None]) -> None:
        self.model.train()
        if not self.options.train_gpt2:
            self.model.gpt.train(False)
        recent: list[float] = []
        for batches in self._batches():
            rate = learning_rate(self.step, self.steps, self.options)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            loss = self._step(batches)
            if not math.isfinite(loss):
                raise StreamcapError(
                    f"the loss is {loss} at step {self.step + 1} (learning rate {rate:.2g}); {self.folder} keeps the "
                    "last completed epoch: start a new run with a lower learning rate"
                )
            self.step += 1
            recent.append(loss)
            if self.step % LOG_STEPS == 0:
                mean = sum(recent) / len(recent)
                self._curves.add(step=self.step, epoch=self.epoch + 1, learning_rate=rate, loss=mean)
                recent.clear()
            on_progress(Progress(self.step, self.steps, self.epoch + 1, loss))

    def _step(self, batches: list[list[int]]) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            features = torch.from_numpy(self.cache.features("train", [self._train[i] for i in batch])).to(self.device)
            captions = [self._sample_captions(i) for i in batch]
            packed = pack(captions, self._prefix_positions, self._stop, self.options.max_tokens).to(self.device)
            with self._mixed_precision():
                loss = self.model(features, packed, self.options.label_smoothing) / len(batches)
            self._scaler.scale(loss).backward()
            total += float(loss.detach())
        if math.isfinite(total):
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
        return total

    @property
    def _prefix_positions(self) -> int:
        if self.options.mapping == "video-mlp":
            return int(self.cache.frames or 1)
        return self.options.prefix + self.model.two_pass

    def _mixed_precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.autocast("cuda", self._autocast)

    def _batches(self) -> Iterator[list[list[int]]]:
        """Yield the `grad_accum` batches of each step; a batch is a list of indices into the train split."""
        order = torch.randperm(len(self._train), generator=self._generator).tolist()
        size = self.options.batch
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for start in range(0, len(batches), self.options.grad_accum):
            yield batches[start : start + self.options.grad_accum]

    def _sample_captions(self, index: int) -> list[list[int]]:
        captions = self._tokens[index]
        order = torch.randperm(len(captions), generator=self._generator).tolist()
        return [captions[i] for i in order[: self.options.captions]]

    def _evaluate(self) -> Scores | None:
        """Save a checkpoint, caption the dev split with it, and copy it to best/ if it is the best so far.

        Without a dev split every checkpoint is copied, and None is returned.
        """
        candidate = self.folder / "tried"
        save_checkpoint(candidate, self.model, self.built, self.cache, self.tokenizer, self.options.max_tokens)
        if not self._dev:
            copy_checkpoint(candidate, self.folder / "best")
            return None
        captions = caption_features(candidate, self.cache, "dev", self._dev, self.device)
        scores = score(captions, [example.captions for example in self._dev])
        self._curves.add(
            step=self.step,
            epoch=self.epoch,
            dev_cider=scores.cider,
            dev_bleu4=scores.bleu4,
            dev_beam=1,
            exact=scores.exact,
        )
        if scores.cider > self.best:
            self.best = scores.cider
            copy_checkpoint(candidate, self.folder / "best")
            write_json(self.folder / "best" / "scores.json", {"epoch": self.epoch, "dev": scores.summary()})
        return scores

    @property
    def _identity(self) -> dict[str, Any]:
        """The settings, encoder and cache of the run; a run resumes only if all are equal."""
        splits = {"train": self._train, "dev": self._dev}
        cache = {
            "frames": self.cache.frames,
            "counts": {split: len(examples) for split, examples in splits.items()},
            "captions": digest([[(one.name, one.captions) for one in examples] for examples in splits.values()]),
        }
        return {"train": self.options.to_json(), "encoder": self.cache.manifest["encoder"], "cache": cache}

    def _check(self, resume: bool) -> None:
        path, expected = self.folder / "settings.json", self._identity
        if not path.is_file():
            if resume:
                raise InputError(f"{self.folder}: holds no run to resume")
            return
        if not resume:
            raise InputError(f"{self.folder}: already holds a run; resume it with --resume, or name another folder")
        saved = read_json(path)
        if saved.get("encoder") != expected["encoder"]:
            raise InputError(f"{self.folder}: was trained on a cache made by another encoder; nothing was overwritten")
        cache = saved.get("cache", {})
        if other := [key for key, value in expected["cache"].items() if cache.get(key) != value]:
            raise InputError(
                f"{self.folder}: was trained on another cache than {self.cache.folder} (its {other[0]} differ); "
                "nothing was overwritten"
            )
        if (difference := self.options.difference(saved.get("train", {}))) is not None:
            raise InputError(f"{self.folder}: was started with other settings: {difference}; nothing was overwritten")

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "best": self.best,
            "generator": self._generator.get_state(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":  # dropout draws from the device's own generator
            state["cuda_random"] = torch.cuda.get_rng_state(self.device)
        save_state(self.folder / "last.pt", state)

    def _restore(self) -> None:
        state = load_state(self.folder / "last.pt", "model", "optimizer", "generator")
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.best = state["step"], state["epoch"], state["best"]
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)


def learning_rate(step: int, steps: int, options: TrainOptions) -> float:
    """The learning rate of step `step`, from 0: linear warm-up, then a cosine to 0 at `steps`."""
    return options.learning_rate * warm_cosine(step, steps, options.warmup)


def caption_features(
    directory: Path, cache: FeatureCache, split: str, examples: list[Example], device: torch.device
) -> list[str]:
    """Greedy captions of cached features by the checkpoint in `directory`, through the same captioner as users'."""
    from streamcap.captioner import load_captioner

    captioner = load_captioner(str(directory), device=str(device), precision="fp32")
    return [result.text for result in caption_cache(captioner, cache, split, examples)]


def _tokenize(tokenizer: Tokenizer, examples: list[Example], max_tokens: int) -> list[list[list[int]]]:
    flat = [normalize(caption) for example in examples for caption in example.captions]
    encoded = iter(tokenizer.encode_batch(flat, add_special_tokens=False))
    return [[next(encoded).ids[:max_tokens] for _ in example.captions] for example in examples]
