"""Training a whole captioner of ours: vision encoder, mapping and GPT-2 at once, on real and on drawn pictures.

What is minimised, for a batch of both kinds:
- of real pictures the cross-entropy of their captions, and how far the grid, through linear heads that are not shipped,
  is from the teacher's map, pooled vector and logits;
- of drawn scenes the cross-entropy of their sentence and, through another such head, of what they show. The second is
  what makes the encoder tell kinds and actions apart within minutes: the sentence's own gradient is too faint at first.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.compact import build_mapping, build_vision
from streamcap.errors import StreamcapError
from streamcap.picture import PictureSpec
from streamcap.training import drawn, teacher
from streamcap.training.gpt2 import build_gpt2
from streamcap.training.model import CaptionModel, pack, packed_logits
from streamcap.training.teacher import Lesson
from streamcap.training.views import crop, disturb, normalise, small_shifts


@dataclass(frozen=True, slots=True)
class JointSettings:
    """One stage. Stages follow one another by starting from the weights of the last."""

    steps: int
    real: int
    """Real pictures a step; 0: drawn scenes alone."""
    scenes: int
    """Drawn pictures a step."""
    captions: int = 5
    """Captions of a real picture used at once; 0: it is only taught."""
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    smoothing: float = 0.1
    dropout: float = 0.0
    teach: float = 1.0
    """Weight of the teacher's part of the loss."""
    average: float = 0.995
    """Decay of the running mean of the weights, which is what is kept."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RealPictures:
    """n training pictures, the tokens of their captions, and what the teacher says of them (None: no teacher)."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    tokens: list[list[list[int]]]
    lessons: list[Lesson] | None


class Heads(nn.Module):
    """Linear heads that only training needs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Linear(channels, teacher.MAP_CHANNELS)
        self.pooled = nn.Linear(channels, teacher.POOLED_CHANNELS)
        self.logits = nn.Linear(teacher.POOLED_CHANNELS, teacher.CLASSES)
        self.sizes = [len(values) for values in drawn.values()]
        self.shown = nn.Linear(2 * channels, sum(self.sizes))

    def shown_loss(self, grid: Tensor, attributes: Tensor) -> Tensor:
        """Summed cross-entropy of what a drawn scene shows; attributes: (B, k)."""
        logits = self.shown(torch.cat((grid.mean(1), grid.amax(1)), 1)).split(self.sizes, 1)
        return torch.stack([F.cross_entropy(one, attributes[:, k]) for k, one in enumerate(logits)]).sum()


class Norms:
    """Mean and deviation of each channel of the teacher's map and pooled vector, over the training pictures."""

    def __init__(self, lesson: Lesson) -> None:
        maps = torch.from_numpy(lesson.maps[::6].astype(np.float32))
        pooled = torch.from_numpy(lesson.pooled[::2].astype(np.float32))
        self.map_mean = maps.mean((0, 2, 3)).view(-1, 1, 1)
        self.map_std = maps.std((0, 2, 3)).view(-1, 1, 1).clamp(min=1)
        self.pooled_mean = pooled.mean(0)
        # A channel that is hardly ever on would be blown up to noise.
        self.pooled_std = pooled.std(0) + 2.5

    def taught(self, heads: Heads, grid: Tensor, lesson: Lesson, rows: Any, flip: Tensor) -> Tensor:
        """How far `grid` (B, N, C) is from what the lesson says of the pictures `rows`, mirrored where `flip`."""
        side = math.isqrt(grid.shape[1])
        maps = torch.from_numpy(lesson.maps[rows].astype(np.float32))
        maps = torch.where(flip.view(-1, 1, 1, 1), maps.flip(3), maps)
        maps = F.adaptive_avg_pool2d((maps - self.map_mean) / self.map_std, side).flatten(2).transpose(1, 2)
        pooled = (torch.from_numpy(lesson.pooled[rows].astype(np.float32)) - self.pooled_mean) / self.pooled_std
        logits = torch.from_numpy(lesson.logits[rows].astype(np.float32))
        said_maps, said_pooled = heads.map(grid), heads.pooled(grid.mean(1))
        said_logits = heads.logits(F.relu(said_pooled))
        # Both softened by a temperature of 2 (Hinton et al. 2015).
        divergence = F.kl_div(
            F.log_softmax(said_logits / 2, -1), F.log_softmax(logits / 2, -1), log_target=True, reduction="batchmean"
        )
        near = 2 - F.cosine_similarity(said_maps, maps, dim=-1).mean() - F.cosine_similarity(said_pooled, pooled).mean()
        return F.mse_loss(said_maps, maps) + 0.5 * F.mse_loss(said_pooled, pooled) + near + 0.3 * divergence


class JointTrainer:
    """The model, its running mean, and one stage of training. `state`/`restore` make a stage go on exactly."""

    def __init__(
        self,
        config: Mapping[str, Any],
        picture: PictureSpec,
        settings: JointSettings,
        real: RealPictures | None,
        scenes: drawn.DrawnPictures,
        sentences: list[list[int]],
        stop: int,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.picture = settings, picture
        self._real, self._scenes, self._sentences, self._stop = real, scenes, sentences, stop
        self._prefix = int(config["mapping"]["prefix"])
        mapping = build_mapping({**config["mapping"], "dropout": settings.dropout})
        gpt = build_gpt2(dict(config["gpt2"]), settings.dropout)
        self.model = CaptionModel(build_vision(config["vision"]), mapping, gpt)
        # Convolutions on a CPU are quicker with the channels last.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads = Heads(int(config["mapping"]["channels"]))
        self.mean = copy.deepcopy(self.model).eval()
        self._norms = Norms(real.lessons[0]) if real is not None and real.lessons else None
        parameters = [*self.model.named_parameters(), *self.heads.named_parameters()]
        flat = ("wte", "wpe", "prefix", "positions")
        decays = [p for name, p in parameters if p.ndim > 1 and not any(part in name for part in flat)]
        plain = [p for name, p in parameters if p.ndim < 2 or any(part in name for part in flat)]
        self._optimizer = torch.optim.AdamW(
            [{"params": decays, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self._order: list[int] = []
        self.step = 0

    def run_step(self) -> dict[str, float]:
        """One step; what each part of the loss was. Raises StreamcapError where it is no number."""
        settings = self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        parts: dict[str, Tensor] = {}
        rows, flip, lesson, planes = self._real_batch()
        chosen = torch.randperm(len(self._sentences))[: settings.scenes]
        shifted = crop(
            np.asarray(self._scenes.pixels[chosen.numpy()]),
            small_shifts(len(chosen), 0.06),
            torch.rand(len(chosen)) < 0.5,
            self.picture.width,
        )
        planes = torch.cat((planes, disturb(shifted, 0.35)))
        assert self.model.vision is not None  # noqa: S101  a joint model always has one
        grid = self.model.vision(normalise(planes, self.picture))
        real, scene = grid[: len(rows)], grid[len(rows) :]
        if lesson is not None and self._norms is not None and settings.teach:
            parts["teacher"] = settings.teach * self._norms.taught(self.heads, real, lesson, rows, flip)
        if len(rows) and settings.captions and self._real is not None:
            captions = [_some(self._real.tokens[row], settings.captions) for row in rows]
            parts["captions"] = self._caption_loss(real, captions, settings.smoothing)
        if len(chosen):
            share = 0.5 if len(rows) else 1.0
            parts["sentences"] = share * self._caption_loss(scene, [[self._sentences[i]] for i in chosen.tolist()], 0.0)
            parts["shown"] = 0.3 * self.heads.shown_loss(
                scene, torch.from_numpy(self._scenes.attributes[chosen.numpy()])
            )
        loss = torch.stack(list(parts.values())).sum()
        if not math.isfinite(loss.item()):
            raise StreamcapError(f"the loss is {loss.item()} at step {self.step + 1}; the last state is kept")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self._optimizer.step()
        self.step += 1
        self._average()
        return {name: part.item() for name, part in parts.items()}

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to a fiftieth."""
        settings = self.settings
        if self.step < settings.warmup:
            return settings.learning_rate * (self.step + 1) / settings.warmup
        done = min(1.0, (self.step - settings.warmup) / max(1, settings.steps - settings.warmup))
        return settings.learning_rate * max(0.02, 0.5 * (1 + math.cos(math.pi * done)))

    def save(self, path: Path, **more: float | int) -> None:
        """All that the stage needs to go on, whole or not at all. Raises StreamcapError where the disk is full."""
        state = {
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "order": self._order,
            "random": torch.get_rng_state(),
            **more,
        }
        part = path.with_name(f"{path.name}.part")
        try:
            torch.save(state, part)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise StreamcapError(f"{part}: cannot be written ({error}); the last state is as it was") from None
        os.replace(part, path)  # noqa: PTH105  a rename over an existing file on every platform

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on where `save` was called."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.start_from(state)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._order = state["step"], state["order"]
        torch.set_rng_state(state["random"])
        return state

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take the weights of another stage."""
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.heads.load_state_dict(state["heads"])

    # Inside -----------------------------------------------------------------------------------------------------

    def _real_batch(self) -> tuple[Any, Tensor, Lesson | None, Tensor]:
        """Indices, which are mirrored, the lesson whose view it is, and the planes."""
        size, count = self.picture.width, self.settings.real
        if self._real is None or not count:
            return np.zeros(0, np.int64), torch.zeros(0, dtype=torch.bool), None, torch.zeros(0, 3, size, size)
        if len(self._order) < count:
            self._order = torch.randperm(len(self._real.pixels)).tolist()
        rows = np.sort(np.array([self._order.pop() for _ in range(count)]))
        flip = torch.rand(count) < 0.5
        lesson = None
        boxes = torch.from_numpy(teacher.random_boxes(count, 0))
        if self._real.lessons:
            lesson = self._real.lessons[int(torch.randint(len(self._real.lessons), ()))]
            boxes = torch.from_numpy(lesson.boxes[rows])
        return rows, flip, lesson, disturb(crop(np.asarray(self._real.pixels[rows]), boxes, flip, size), 0.8)

    def _caption_loss(self, grid: Tensor, captions: list[list[list[int]]], smoothing: float) -> Tensor:
        packed = pack(captions, self._prefix, self._stop)
        logits = packed_logits(self.model.gpt, self.model.mapping(grid), packed)
        return F.cross_entropy(logits, packed.targets, label_smoothing=smoothing)

    @torch.no_grad()
    def _average(self) -> None:
        # At first the mean is short, so that it does not carry the random weights along.
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for kept, now in zip(self.mean.state_dict().values(), self.model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(now, 1 - decay)
            else:
                kept.copy_(now)


def _some(captions: list[list[int]], count: int) -> list[list[int]]:
    return [captions[i] for i in torch.randperm(len(captions))[:count].tolist()]
