"""One stage of training a whole captioner of ours: the model, its running mean, the optimiser, and how it goes on.

Stages follow one another by starting from the weights of the last. Whatever a stage trains, its file holds the whole
model under the same names, so that any stage can follow any other.
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
from streamcap.training.optim import average, decay_groups, decays, load_state, save_state, warm_cosine

REWARD = "reward"
"""The key of what `run_step` returns that is no loss."""
ROWS_A_PASS = 16
"""Images whose captions go through GPT-2 together: in one batch of 48, a third of the positions would be padding."""
LOWEST_RATE = 0.02
"""Share of the highest rate that a stage does not go below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What every stage is told."""

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    schedule: int = 0
    """Steps after which the learning rate would be at its lowest; 0: `steps`. A stage may end before."""
    weight_decay: float = 0.05
    dropout: float = 0.0
    word_dropout: float = 0.0
    """Share of the words of real captions that GPT-2 reads as any other (Bowman et al. 2016): it must look at the
    image more, and 30,000 captions are soon learned by heart. The stage `critic` takes no notice of it."""
    orthogonal: bool = False
    """Learn matrices and convolutions by Muon: its 50 steps took more off the encoder's loss than AdamW's 500."""
    average: float = 0.995
    """Decay of the running mean of the weights, which is what is kept."""
    seed: int = 0


class StageTrainer(ABC):
    """The model and one stage of its training. `save` and `restore` make a stage go on exactly.

    config: the `vision`, `mapping` and `gpt2` parts of a checkpoint of ours. stop: the stop token.
    """

    options: StageOptions

    def __init__(self, config: Mapping[str, Any], image_spec: ImageSpec, options: StageOptions, *, stop: int) -> None:
        torch.manual_seed(options.seed)
        self.options, self.image_spec = options, image_spec
        self._stop, self._prefix = stop, int(config["mapping"]["prefix"])
        mapping = build_mapping({**config["mapping"], "dropout": options.dropout})
        gpt = build_gpt2(dict(config["gpt2"]), options.dropout)
        self.model = CaptionModel(build_vision(config["vision"]), mapping, gpt)
        # Convolutions on a CPU are quicker with the channels last.
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
        """The parts of the loss on the next batch; what else was measured on it goes into `measured`."""

    def run_step(self) -> dict[str, float]:
        """One step; what each part of the loss was, and the `REWARD` where there is one. Raises StreamcapError where
        the loss is no number."""
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
        average(self.ema, self.model, self.step, self.options.average)
        return {**{name: part.item() for name, part in parts.items()}, **measured}

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to a fiftieth."""
        options = self.options
        return options.learning_rate * warm_cosine(
            self.step, options.schedule or options.steps, options.warmup, LOWEST_RATE
        )

    def save(self, path: Path, **more: Any) -> None:
        """All that the stage needs to go on, whole or not at all. Raises StreamcapError where the disk is full."""
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
        """Go on where `save` was called; returns what was saved. Raises InputError where the stage was started with
        other settings and that is not asked for, or where the file cannot be read."""
        state = read_state(path)
        # Files of before settings were kept are taken as they are.
        found = state.get("settings", {})
        wanted = asdict(self.options)
        differing = [name for name, value in found.items() if name in wanted and wanted[name] != value]
        if differing and not other_settings:
            name = differing[0]
            raise InputError(
                f"{path}: was started with other settings: {name} {found[name]!r} there, {wanted[name]!r} here; "
                "nothing was overwritten"
            )
        self._load(state)
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self._order = state["step"], state["order"]
        torch.set_rng_state(state["random"])
        return state

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take the weights of another stage."""
        self._load(state)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon where it is asked for: for matrices and convolutions, embeddings and heads aside."""
        options, rate = self.options, self.options.learning_rate
        learning = list(self._learning())
        inner = {name for name, _ in self.model.named_parameters()} if options.orthogonal else set()
        steep = [weight for name, weight in learning if name in inner and decays(name, weight)]
        taken = set(map(id, steep))
        groups = decay_groups([one for one in learning if id(one[1]) not in taken], options.weight_decay)
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
        return [*optimizers, Muon(steep, rate, options.weight_decay)] if steep else optimizers

    # For stages ---------------------------------------------------------------------------------------------------

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["mean"])
        self.heads.load_state_dict(state["heads"])

    def _next_rows(self, count: int, total: int) -> npt.NDArray[np.int64]:
        """`count` of `total` images, sorted; every image comes once before one comes again."""
        if len(self._order) < count:
            self._order = torch.randperm(total).tolist()
        return np.sort(np.array([self._order.pop() for _ in range(min(count, total))], np.int64))

    def _caption_loss(
        self, grid: Tensor, captions: list[list[list[int]]], label_smoothing: float = 0.0, word_dropout: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy of a token; captions: token ids by image, as many images as `grid` (B, N, C) has."""
        return self._prefix_loss(self.model.mapping(grid), captions, label_smoothing, word_dropout)

    def _prefix_loss(
        self, prefix: Tensor, captions: list[list[list[int]]], label_smoothing: float = 0.0, word_dropout: float = 0.0
    ) -> Tensor:
        """As `_caption_loss`, of prefixes (B, P, E)."""
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
    """The images of a batch in stretches of `ROWS_A_PASS`, those with as many tokens together: less is padding."""
    order = sorted(range(len(captions)), key=lambda row: sum(map(len, captions[row])))
    for start in range(0, len(order), ROWS_A_PASS):
        yield order[start : start + ROWS_A_PASS]


def read_state(path: Path) -> dict[str, Any]:
    """What `StageTrainer.save` wrote. Raises InputError for a file that is none."""
    return load_state(path, "model", "mean", "heads", "optimizers", "step")


def midpoint(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The last of the states with the mean of all their weights in place of its own (Wortsman et al. 2022)."""
    if len(states) == 1:
        return states[0]
    mean = {
        name: torch.stack([state["mean"][name].double() for state in states]).mean(0).to(last.dtype)
        for name, last in states[-1]["mean"].items()
    }
    return {**states[-1], "model": mean, "mean": mean}


def some(captions: list[list[int]], count: int) -> list[list[int]]:
    """`count` of an image's captions, or all where it has fewer, in any order."""
    return [captions[i] for i in torch.randperm(len(captions))[:count].tolist()]
