"""Layers with byte activations: every instruction set computes the sums that exact integers give."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor, nn

from streamcap.captioner.kernels.packed import PackedLinear, matmul
from tests.captioner.packed_layers import needs_compiler

pytestmark = [needs_compiler, pytest.mark.parametrize("precision", ["int8"], scope="session", indirect=True)]

WEIGHTS = {
    "normal": lambda outputs, inputs: torch.randn(outputs, inputs),
    "all equal": lambda outputs, inputs: torch.full((outputs, inputs), 0.7),
    "all equal, negative": lambda outputs, inputs: torch.full((outputs, inputs), -0.7),
    "one large": lambda outputs, inputs: 0.01 * torch.randn(outputs, inputs) + 3.0 * (torch.arange(inputs) == 5),
    "zero": lambda outputs, inputs: torch.zeros(outputs, inputs),
}


def in_integers(packed: PackedLinear, x: Tensor) -> Tensor:
    """The layer's output from int64 sums of the quantized activations."""
    top = x.abs().amax(1, keepdim=True)
    y = x * (127 / top)
    quantized = (y + y.sign() / 2).trunc().long()
    qweight = packed.qweight.transpose(1, 2).reshape(-1, packed.in_features).long()
    out = (quantized @ qweight.T).double() * (top / 127) * packed.scales + packed.bias
    return out[:, : packed.out_features].float()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 57), (192, 32)])
@torch.inference_mode()
def test_sums_equal_those_of_exact_integers(library: ctypes.CDLL, weights: str, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs)
    linear.weight.copy_(WEIGHTS[weights](outputs, inputs))
    packed = PackedLinear(linear, "int8", byte_activations=True)
    for rows in (1, 2, 3, 4, 5, 11, 130):
        x = torch.randn(rows, inputs)
        for one in (x, x.sign(), -torch.ones_like(x), torch.ones_like(x)):  # the last three: all at the limit
            actual = matmul(packed, one, library=library)
            torch.testing.assert_close(actual, in_integers(packed, one), rtol=1e-5, atol=1e-4)


@torch.inference_mode()
def test_error_of_a_layer_stays_small(library: ctypes.CDLL) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(768, 96)
    x = torch.randn(50, 768)
    actual = matmul(PackedLinear(linear, "int8", byte_activations=True), x, library=library)
    expected = linear(x)
    assert float((actual - expected).square().mean().sqrt() / expected.std()) < 0.02
