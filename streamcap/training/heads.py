"""Linear heads on the encoder's grid that only training needs: what the teacher says, which words a picture's captions
have, and what a drawn scene shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.training import drawn, teacher
from streamcap.training.teacher import Lesson


class Heads(nn.Module):
    """Linear heads that only training needs."""

    def __init__(self, channels: int, vocabulary: int) -> None:
        super().__init__()
        self.map = nn.Linear(channels, teacher.MAP_CHANNELS)
        self.pooled = nn.Linear(channels, teacher.POOLED_CHANNELS)
        self.logits = nn.Linear(teacher.POOLED_CHANNELS, teacher.CLASSES)
        self.sizes = [len(values) for values in drawn.values()]
        self.shown = nn.Linear(2 * channels, sum(self.sizes))
        self.words = nn.Linear(2 * channels, vocabulary)

    def shown_loss(self, grid: Tensor, attributes: Tensor) -> Tensor:
        """Summed cross-entropy of what a drawn scene shows; attributes: (B, k)."""
        logits = self.shown(_summary(grid)).split(self.sizes, 1)
        return torch.stack([F.cross_entropy(one, attributes[:, k]) for k, one in enumerate(logits)]).sum()

    def words_loss(self, grid: Tensor, shares: Tensor) -> Tensor:
        """Cross-entropy of the words of a picture's captions in no order; shares: (B, vocabulary), from `Words`. One
        softmax over all of them learns more words than a yes or no for each (Mahajan et al. 2018, section 2.3)."""
        return F.cross_entropy(self.words(_summary(grid)), shares)


class Words:
    """The share that each token has in the captions of a picture, those aside that say nothing of it.

    tokens: by picture, its captions' token ids.
    """

    COMMON = 0.4
    """Tokens in the captions of more pictures than this say nothing: *a*, *in*, *is*."""

    def __init__(self, tokens: Sequence[Sequence[Sequence[int]]], vocabulary: int) -> None:
        self._tokens, self._vocabulary = tokens, vocabulary
        pictures = np.zeros(vocabulary)
        for captions in tokens:
            pictures[sorted({token for caption in captions for token in caption})] += 1
        self._telling = pictures <= self.COMMON * len(tokens)

    def shares(self, rows: Any) -> Tensor:
        """(B, vocabulary) of the pictures `rows`; a row sums to 1, or to 0 where no token is telling."""
        counts = np.zeros((len(rows), self._vocabulary), np.float32)
        for i, row in enumerate(rows):
            for caption in self._tokens[row]:
                np.add.at(counts[i], caption, 1)
        counts *= self._telling
        return torch.from_numpy(counts / np.maximum(counts.sum(1, keepdims=True), 1))


def _summary(grid: Tensor) -> Tensor:
    """Mean and maximum of the cells: (B, N, C) to (B, 2 C)."""
    return torch.cat((grid.mean(1), grid.amax(1)), 1)


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
