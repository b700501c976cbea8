"""`StageTrainer`: one stage of the training of `mini`: model, averaged weights, optimizers, saved state.

A stage starts from the weights of an earlier one. Its file always holds the whole model under the same names, so that
stages can follow one another in any order.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.models.mini_encoder import build_mapping, build_vision
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec
from streamcap.training.gpt2 import build_gpt2
from streamcap.training.mini.heads import Heads
from streamcap.training.model import CaptionModel, pack, packed_logits
from streamcap.training.muon import Muon
from streamcap.training.optim import decay_groups, decays, load_state, save_state, update_ema, warm_cosine

REWARD = "reward"
"""Key of the mean reward among the losses that `run_step` returns."""
ROWS_A_PASS = 16
"""Images whose captions go through GPT-2 together. With 48, a third of the positions would be padding."""
LOWEST_RATE = 0.02
"""Lowest learning rate after the warm-up, as a share of the highest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """Options of every stage."""

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    schedule: int = 0
    """Steps of the learning rate's schedule, which may be longer than the stage; 0: `steps`."""
    weight_decay: float = 0.05
    dropout: float = 0.0
    word_dropout: float = 0.0
    """Share of GPT-2's input tokens of real captions that are replaced by random ones (Bowman et al. 2016), against
    overfitting: GPT-2 then depends more on the image. Not used in self-critical training."""
    orthogonal: bool = False
    """Use Muon for matrices and convolutions. It lowered the encoder's loss more in 50 steps than AdamW in 500."""
    average: float = 0.995
    """Decay of the exponential moving average of the weights; the average is the model that is kept."""
    seed: int = 0


class StageTrainer(ABC):
    """The model and the state of one stage. A stage that was saved and restored continues exactly.

    config: the `vision`, `mapping` and `gpt2` parts of a checkpoint's config.json. stop: the stop token.
    """

    options: StageOptions

    def __init__(self, config: Mapping[str, Any], image_spec: ImageSpec, options: StageOptions, *, stop: int) -> None:
        torch.manual_seed(options.seed)
        self.options, self.image_spec = options, image_spec
        self._stop, self._prefix = stop, int(config["mapping"]["prefix"])
        mapping = build_mapping({**config["mapping"], "dropout": options.dropout})
        gpt = build_gpt2(dict(config["gpt2"]), options.dropout)
        self.model = CaptionModel(build_vision(config["vision"]), mapping, gpt)
        # Convolutions on a CPU are faster with the channels last.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads = self._make_heads(config)
        self.ema = copy.deepcopy(self.model).eval()
        self._optimizers = self._make_optimizers()
        self._order: list[int] = []
        self.step = 0

    def _make_heads(self, config: Mapping[str, Any]) -> Any:
        """The heads that only training needs."""
        return Heads(int(config["mapping"]["channels"]))

    @abstractmethod
    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The parameters that this stage trains, with their names."""

    @abstractmethod
    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        """The losses of the next batch by name, each a scalar. Other figures of the step are added to `measured`."""

    def run_step(self) -> dict[str, float]:
        """Run one step. Returns its losses by name, and other figures such as REWARD.

        Raises StreamcapError if the loss is not finite.
        """
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        measured: dict[str, float] = {}
        parts = self._losses(measured)
        loss = torch.stack(list(parts.values())).sum()
        if not math.isfinite(loss.item()):
            raise StreamcapError(f"the loss is {loss.item()} at step {self.step + 1}; the last state is kept")
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self.step += 1
        update_ema(self.ema, self.model, self.step, self.options.average)
        return {**{name: part.item() for name, part in parts.items()}, **measured}

    def learning_rate(self) -> float:
        """The rate of the next step: linear warm-up, then a cosine to LOWEST_RATE of the maximum."""
        options = self.options
        return options.learning_rate * warm_cosine(
            self.step, options.schedule or options.steps, options.warmup, LOWEST_RATE
        )

    def save(self, path: Path, **more: Any) -> None:
        """Write the state of the stage, and `more`, atomically. Raises StreamcapError if the disk is full."""
        state = {
            "model": self.model.state_dict(),
            "mean": self.ema.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.step,
            "order": self._order,
            "random": torch.get_rng_state(),
            "settings": asdict(self.options),
        }
        save_state(path, {**state, **more})

    def restore(self, path: Path, *, other_settings: bool = False) -> dict[str, Any]:
        """Load what `save` wrote, and return it.

        Raises InputError if the file cannot be read, or if the stage was started with other settings, unless
        `other_settings`.
        """
        state = read_state(path)
        stored, now = state.get("settings", {}), asdict(self.options)
        differing = [name for name, value in stored.items() if name in now and now[name] != value]
        if differing and not other_settings:
            name = differing[0]
            raise InputError(
                f"{path}: was started with other settings: {name} is {stored[name]!r} there and {now[name]!r} here; "
                "nothing was overwritten"
            )
        self._load(state)
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self._order = state["step"], state["order"]
        torch.set_rng_state(state["random"])
        return state

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Start from the weights of another stage."""
        self._load(state)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW; with `options.orthogonal`, Muon for the matrices and convolutions of the model (not of the heads)."""
        options, rate = self.options, self.options.learning_rate
        trainable = list(self._learning())
        of_model = {name for name, _ in self.model.named_parameters()} if options.orthogonal else set()
        matrices = [weight for name, weight in trainable if name in of_model and decays(name, weight)]
        taken = set(map(id, matrices))
        groups = decay_groups([one for one in trainable if id(one[1]) not in taken], options.weight_decay)
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
        return [*optimizers, Muon(matrices, rate, options.weight_decay)] if matrices else optimizers

    # For stages ---------------------------------------------------------------------------------------------------

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["mean"])
        self.heads.load_state_dict(state["heads"])

    def _next_rows(self, count: int, total: int) -> npt.NDArray[np.int64]:
        """Numbers of `count` of `total` images, sorted. Every image is used once before any is used again."""
        if len(self._order) < count:
            self._order = torch.randperm(total).tolist()
        return np.sort(np.array([self._order.pop() for _ in range(min(count, total))], np.int64))

    def _caption_loss(
        self, grid: Tensor, captions: list[list[list[int]]], label_smoothing: float = 0.0, word_dropout: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy per token, in nats. grid: (B, N, C). captions: for each image the token ids of some."""
        return self._prefix_loss(self.model.mapping(grid), captions, label_smoothing, word_dropout)

    def _prefix_loss(
        self, prefix: Tensor, captions: list[list[list[int]]], label_smoothing: float = 0.0, word_dropout: float = 0.0
    ) -> Tensor:
        """As `_caption_loss`, for prefixes (B, P, E)."""
        sums, count = [], 0
        for rows in passes(captions):
            packed = pack([captions[row] for row in rows], self._prefix, self._stop)
            if word_dropout:
                other = torch.rand(packed.tokens.shape) < word_dropout
                packed.tokens[other] = torch.randint(self.model.gpt.config.vocab_size, (int(other.sum()),))
            packed = packed.to(prefix.device)
            logits = packed_logits(self.model.gpt, prefix[rows], packed)
            sums.append(F.cross_entropy(logits, packed.targets, label_smoothing=label_smoothing, reduction="sum"))
            count += len(packed.targets)
        return torch.stack(sums).sum() / count


def passes(captions: list[list[list[int]]]) -> Iterator[list[int]]:
    """Split a batch into groups of ROWS_A_PASS images with about as many tokens, so that there is little padding.

    Yields the indices of each group.
    """
    order = sorted(range(len(captions)), key=lambda row: sum(map(len, captions[row])))
    for start in range(0, len(order), ROWS_A_PASS):
        yield order[start : start + ROWS_A_PASS]


def read_state(path: Path) -> dict[str, Any]:
    """Read what `StageTrainer.save` wrote. Raises InputError for any other file."""
    return load_state(path, "model", "mean", "heads", "optimizers", "step")


def midpoint(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The last state, with the mean of the averaged weights of all states (Wortsman et al. 2022) as its weights."""
    if len(states) == 1:
        return states[0]
    mean = {
        name: torch.stack([state["mean"][name].double() for state in states]).mean(0).to(last.dtype)
        for name, last in states[-1]["mean"].items()
    }
    return {**states[-1], "model": mean, "mean": mean}


def some(captions: list[list[int]], count: int) -> list[list[int]]:
    """`count` random captions of an image, in random order; all if it has fewer."""
    return [captions[i] for i in torch.randperm(len(captions))[:count].tolist()]
