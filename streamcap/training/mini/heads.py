"""Linear heads that only training needs: they predict the teacher's output and the attributes of synthetic scenes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.training.mini import synthetic, teacher
from streamcap.training.mini.teacher import TeacherOutput


class Heads(nn.Module):
    """Linear heads on the encoder's last grid; `channels` is its number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pooled = nn.Linear(channels, teacher.POOLED_CHANNELS)
        self.logits = nn.Linear(teacher.POOLED_CHANNELS, teacher.CLASSES)
        self.sizes = [len(values) for values in synthetic.values()]
        self.shown = nn.Linear(2 * channels, sum(self.sizes))

    def attribute_loss(self, grid: Tensor, attributes: Tensor) -> Tensor:
        """Cross-entropy of the attributes of synthetic scenes, summed over the attributes; a scalar.

        grid: (B, N, C). attributes: (B, len(ATTRIBUTES)) int64.
        """
        logits = self.shown(_summary(grid)).split(self.sizes, 1)
        return torch.stack([F.cross_entropy(one, attributes[:, k]) for k, one in enumerate(logits)]).sum()

    def distill_losses(self, stages: Sequence[Tensor], features: TeacherOutput, inner: float) -> dict[str, Tensor]:
        """Losses of distillation: `stage1`, `stage2`, … and `logits`, each a scalar.

        Each output of `stages` (B, C, h, w) should equal the teacher's normalized map in its first channels; logits
        predicted from the last one should equal the teacher's. inner: weight of all stages but the last.
        """
        parts = {
            f"stage{k}": (1.0 if k == len(stages) else inner) * F.mse_loss(stage[:, : target.shape[1]], target)
            for k, (stage, target) in enumerate(zip(stages, features.maps, strict=True), 1)
        }
        cells = stages[-1].flatten(2).transpose(1, 2)
        pooled = self.pooled(cells).clamp(0, 6).mean(1)
        # Temperature 2 for both (Hinton et al. 2015).
        divergence = F.kl_div(
            F.log_softmax(self.logits(pooled) / 2, -1),
            F.log_softmax(features.logits / 2, -1),
            log_target=True,
            reduction="batchmean",
        )
        return parts | {"logits": 0.3 * divergence}


def _summary(grid: Tensor) -> Tensor:
    """Mean and maximum over the cells: (B, N, C) → (B, 2 C)."""
    return torch.cat((grid.mean(1), grid.amax(1)), 1)


class Norms:
    """Normalizes a teacher's maps by the mean and deviation of each channel, taken from `features`."""

    def __init__(self, features: TeacherOutput) -> None:
        self._maps = [(maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)) for maps in features.maps]

    def __call__(self, features: TeacherOutput) -> TeacherOutput:
        """`features` with normalized maps; the logits do not change."""
        maps = [(one - mean) / std.clamp(min=1e-3) for one, (mean, std) in zip(features.maps, self._maps, strict=True)]
        return TeacherOutput(maps, features.logits)
