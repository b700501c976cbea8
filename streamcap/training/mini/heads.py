"""Linear heads on the encoder's grid that only training needs: what the teacher says, and what a drawn scene shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.training.mini import synthetic, teacher
from streamcap.training.mini.teacher import TeacherOutput


class Heads(nn.Module):
    """Linear heads that only training needs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pooled = nn.Linear(channels, teacher.POOLED_CHANNELS)
        self.logits = nn.Linear(teacher.POOLED_CHANNELS, teacher.CLASSES)
        self.sizes = [len(values) for values in synthetic.values()]
        self.shown = nn.Linear(2 * channels, sum(self.sizes))

    def shown_loss(self, grid: Tensor, attributes: Tensor) -> Tensor:
        """Summed cross-entropy of what a drawn scene shows; attributes: (B, k)."""
        logits = self.shown(_summary(grid)).split(self.sizes, 1)
        return torch.stack([F.cross_entropy(one, attributes[:, k]) for k, one in enumerate(logits)]).sum()

    def followed(self, stages: Sequence[Tensor], features: TeacherOutput, inner: float) -> dict[str, Tensor]:
        """How far each leg (B, C, h, w) is from the teacher's normalised map, which is that of its first channels, and
        the last from what the teacher makes of it. inner: the weight of the legs before the last."""
        parts = {
            f"leg{k}": (1.0 if k == len(stages) else inner) * F.mse_loss(stage[:, : said.shape[1]], said)
            for k, (stage, said) in enumerate(zip(stages, features.maps, strict=True), 1)
        }
        cells = stages[-1].flatten(2).transpose(1, 2)
        pooled = self.pooled(cells).clamp(0, 6).mean(1)
        # Both softened by a temperature of 2 (Hinton et al. 2015).
        divergence = F.kl_div(
            F.log_softmax(self.logits(pooled) / 2, -1),
            F.log_softmax(features.logits / 2, -1),
            log_target=True,
            reduction="batchmean",
        )
        return parts | {"logits": 0.3 * divergence}


def _summary(grid: Tensor) -> Tensor:
    """Mean and maximum of the cells: (B, N, C) to (B, 2 C)."""
    return torch.cat((grid.mean(1), grid.amax(1)), 1)


class Norms:
    """Mean and deviation of each channel of what a teacher tells, over some images."""

    def __init__(self, features: TeacherOutput) -> None:
        self._maps = [(maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)) for maps in features.maps]

    def __call__(self, features: TeacherOutput) -> TeacherOutput:
        """The same in units of the channels' own deviation; logits as they are."""
        maps = [(one - mean) / std.clamp(min=1e-3) for one, (mean, std) in zip(features.maps, self._maps, strict=True)]
        return TeacherOutput(maps, features.logits)
