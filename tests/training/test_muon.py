"""Muon compared with a singular value decomposition and with torch's Muon, which takes matrices only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from streamcap.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_orthogonalized_matrix_has_unit_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonal(matrix)
    values = left.T @ result @ right.T
    assert torch.allclose(values, torch.diag(values.diag()), atol=2e-2)
    assert values.diag().min() > 0.3 and values.diag().max() < 1.3


def test_update_equals_torch_muon() -> None:
    torch.manual_seed(1)
    start, gradients = torch.randn(12, 30), torch.randn(5, 12, 30)
    ends = []
    for make in (
        lambda weight: Muon([weight], 1e-2, 0.1),
        lambda weight: torch.optim.Muon([weight], 1e-2, 0.1, adjust_lr_fn="match_rms_adamw"),
    ):
        weight = nn.Parameter(start.clone())
        optimizer = make(weight)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach() - start)
    # torch computes in bfloat16; after 5 iterations two digits agree.
    assert torch.nn.functional.cosine_similarity(ends[0].flatten(), ends[1].flatten(), 0) > 0.995
    assert (ends[0].norm() / ends[1].norm()).item() == pytest.approx(1, abs=0.02)


def test_convolution_is_treated_as_filter_matrix() -> None:
    torch.manual_seed(2)
    filters = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    gradient = torch.randn(8, 4, 3, 3)
    filters.grad, matrix.grad = gradient, gradient.flatten(1)
    for weight in (filters, matrix):
        Muon([weight], 1e-2, 0.0).step()
    assert torch.allclose(filters.detach().flatten(1), matrix)
