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

from streamcap.captioner.compact import build_mapping, build_vision
from streamcap.errors import InputError, StreamcapError
from streamcap.picture import PictureSpec
from streamcap.training.gpt2 import build_gpt2
from streamcap.training.heads import Heads
from streamcap.training.learning import average, decay_groups, decays, load_state, save_state, warm_cosine
from streamcap.training.model import CaptionModel, pack, packed_logits
from streamcap.training.muon import Muon

REWARD = "reward"
"""The key of what `run_step` returns that is no loss."""
ROWS_A_PASS = 16
"""Pictures whose captions go through GPT-2 together: in one batch of 48, a third of the positions would be padding."""
LOWEST_RATE = 0.02
"""Share of the highest rate that a stage does not go below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """What every stage is told."""

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    dropout: float = 0.0
    word_dropout: float = 0.0
    """Share of the words of real captions that GPT-2 reads as any other (Bowman et al. 2016): it must look at the
    picture more, and 30,000 captions are soon learned by heart. The stage `critic` takes no notice of it."""
    orthogonal: bool = False
    """Learn matrices and convolutions by Muon: its 50 steps took more off the encoder's loss than AdamW's 500."""
    average: float = 0.995
    """Decay of the running mean of the weights, which is what is kept."""
    seed: int = 0


class StageTrainer(ABC):
    """The model and one stage of its training. `save` and `restore` make a stage go on exactly.

    config: the `vision`, `mapping` and `gpt2` parts of a checkpoint of ours. stop: the stop token.
    """

    settings: StageSettings

    def __init__(self, config: Mapping[str, Any], picture: PictureSpec, settings: StageSettings, *, stop: int) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.picture = settings, picture
        self._stop, self._prefix = stop, int(config["mapping"]["prefix"])
        mapping = build_mapping({**config["mapping"], "dropout": settings.dropout})
        gpt = build_gpt2(dict(config["gpt2"]), settings.dropout)
        self.model = CaptionModel(build_vision(config["vision"]), mapping, gpt)
        # Convolutions on a CPU are quicker with the channels last.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads = Heads(int(config["mapping"]["channels"]))
        self.mean = copy.deepcopy(self.model).eval()
        self._optimizers = self._make_optimizers()
        self._order: list[int] = []
        self.step = 0

    @abstractmethod
    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The parameters that this stage trains, with their names."""

    @abstractmethod
    def _losses(self, told: dict[str, float]) -> dict[str, Tensor]:
        """The parts of the loss on the next batch; what else there is to tell goes into `told`."""

    def run_step(self) -> dict[str, float]:
        """One step; what each part of the loss was, and the `REWARD` where there is one. Raises StreamcapError where
        the loss is no number."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        told: dict[str, float] = {}
        parts = self._losses(told)
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
        average(self.mean, self.model, self.step, self.settings.average)
        return {**{name: part.item() for name, part in parts.items()}, **told}

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to a fiftieth."""
        settings = self.settings
        return settings.learning_rate * warm_cosine(self.step, settings.steps, settings.warmup, LOWEST_RATE)

    def save(self, path: Path, **more: Any) -> None:
        """All that the stage needs to go on, whole or not at all. Raises StreamcapError where the disk is full."""
        state = {
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.step,
            "order": self._order,
            "random": torch.get_rng_state(),
            "settings": asdict(self.settings),
        }
        save_state(path, {**state, **more})

    def restore(self, path: Path, *, other_settings: bool = False) -> dict[str, Any]:
        """Go on where `save` was called; returns what was saved. Raises InputError where the stage was started with
        other settings and that is not asked for, or where the file cannot be read."""
        state = read_state(path)
        # Files of before settings were kept are taken as they are.
        found = state.get("settings", {})
        wanted = asdict(self.settings)
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
        settings, rate = self.settings, self.settings.learning_rate
        learning = list(self._learning())
        inner = {name for name, _ in self.model.named_parameters()} if settings.orthogonal else set()
        steep = [weight for name, weight in learning if name in inner and decays(name, weight)]
        taken = set(map(id, steep))
        groups = decay_groups([one for one in learning if id(one[1]) not in taken], settings.weight_decay)
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
        return [*optimizers, Muon(steep, rate, settings.weight_decay)] if steep else optimizers

    # For stages ---------------------------------------------------------------------------------------------------

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.heads.load_state_dict(state["heads"])

    def _next_rows(self, count: int, total: int) -> npt.NDArray[np.int64]:
        """`count` of `total` pictures, sorted; every picture comes once before one comes again."""
        if len(self._order) < count:
            self._order = torch.randperm(total).tolist()
        return np.sort(np.array([self._order.pop() for _ in range(min(count, total))], np.int64))

    def _caption_loss(
        self, grid: Tensor, captions: list[list[list[int]]], smoothing: float = 0.0, word_dropout: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy of a token; captions: token ids by picture, as many pictures as `grid` (B, N, C) has."""
        prefix: Tensor = self.model.mapping(grid)
        sums, count = [], 0
        for rows in passes(captions):
            packed = pack([captions[row] for row in rows], self._prefix, self._stop)
            if word_dropout:
                other = torch.rand(packed.tokens.shape) < word_dropout
                packed.tokens[other] = torch.randint(self.model.gpt.config.vocab_size, (int(other.sum()),))
            logits = packed_logits(self.model.gpt, prefix[rows], packed)
            sums.append(F.cross_entropy(logits, packed.targets, label_smoothing=smoothing, reduction="sum"))
            count += len(packed.targets)
        return torch.stack(sums).sum() / count


def passes(captions: list[list[list[int]]]) -> Iterator[list[int]]:
    """The pictures of a batch in stretches of `ROWS_A_PASS`, those with as many tokens together: less is padding."""
    order = sorted(range(len(captions)), key=lambda row: sum(map(len, captions[row])))
    for start in range(0, len(order), ROWS_A_PASS):
        yield order[start : start + ROWS_A_PASS]


def read_state(path: Path) -> dict[str, Any]:
    """What `StageTrainer.save` wrote. Raises InputError for a file that is none."""
    return load_state(path, "model", "mean", "heads", "optimizers", "step")


def halfway(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The last of the states with the mean of all their weights in place of its own (Wortsman et al. 2022)."""
    if len(states) == 1:
        return states[0]
    mean = {
        name: torch.stack([state["mean"][name].double() for state in states]).mean(0).to(last.dtype)
        for name, last in states[-1]["mean"].items()
    }
    return {**states[-1], "model": mean, "mean": mean}


def some(captions: list[list[int]], count: int) -> list[list[int]]:
    """`count` of a picture's captions, or all where it has fewer, in any order."""
    return [captions[i] for i in torch.randperm(len(captions))[:count].tolist()]
