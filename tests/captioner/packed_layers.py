"""Shared by the tests of the kernels: a skip mark, and reference models with dequantized weights."""

from __future__ import annotations

import pytest
from torch import nn

from streamcap.captioner.kernels import loading
from streamcap.captioner.kernels.packed import PackedLinear

needs_compiler = pytest.mark.skipif(loading.load_library("int8") is None, reason="no C compiler, or not Linux on AVX2")


def use_dequantized_weights(plain: nn.Module, precision: str) -> None:
    """Replace every weight by its packed and dequantized value, in place: the reference for the kernels."""
    for module in plain.modules():
        if type(module) is nn.Linear:
            module.weight = nn.Parameter(PackedLinear(module, precision).weight(), requires_grad=False)
