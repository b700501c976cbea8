"""Muon, for matrices and convolutions: the momentum of one, orthogonalised, is its step.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the step is scaled as in Liu et al. 2025,
"Muon is scalable for LLM training", so that AdamW's rates suit it. torch's own takes matrices alone, no convolutions,
and reckons in bfloat16, which many CPUs only imitate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SCALE = 0.2
"""AdamW's usual step, root mean square, in units of the rate."""
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """For weights (O, ...) of two and more dimensions, each a matrix of O rows."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; without a closure, as everything here."""
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
    """Nearly U V^T of `matrix` = U S V^T: singular values between about 0.7 and 1.2, by Newton and Schulz's rounds."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
