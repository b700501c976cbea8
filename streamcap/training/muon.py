"""Muon optimizer for matrices and convolutions: each step is the orthogonalized momentum.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the step is scaled as in Liu et al. 2025,
"Muon is scalable for LLM training", so that AdamW's learning rates fit. torch's Muon takes no convolutions and computes
in bfloat16, which many CPUs emulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SCALE = 0.2
"""Typical root mean square of an AdamW step, in units of the learning rate."""
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For weights (O, ...) of two or more dimensions; each is treated as a matrix of O rows."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all weights. Raises ValueError for a closure."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight.grad))
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                step = orthogonal(weight.grad.lerp(momentum, MOMENTUM).flatten(1))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step.view(weight.shape), alpha=-group["lr"] * SCALE * max(step.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximate U V^T of `matrix` = U S V^T by Newton-Schulz; the singular values come out at about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
