"""What tests of `kernels/` share: whether it can be had, and references on the weights that codes stand for."""

from __future__ import annotations

import pytest
from torch import nn

from streamcap.captioner.kernels import build
from streamcap.captioner.kernels.packed import PackedLinear

needs_compiler = pytest.mark.skipif(build.load_library("int8") is None, reason="no C compiler, or not Linux on AVX2")


def with_codes(plain: nn.Module, precision: str) -> None:
    """In place: the weights that the codes stand for, in float32 through torch. What compiled layers should give."""
    for module in plain.modules():
        if type(module) is nn.Linear:
            module.weight = nn.Parameter(PackedLinear(module, precision).weight(), requires_grad=False)
