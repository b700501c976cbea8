"""Linear heads on the encoder's grid that only training needs: what the teacher says, and what a drawn scene shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.training import drawn, teacher
from streamcap.training.teacher import Lesson


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
