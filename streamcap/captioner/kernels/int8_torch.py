"""Linear layers in int8: weights by output channel, activations by row as they come.

The products are FBGEMM's, which torch carries. They read a quarter of float32's bytes, and reading weights is what a
decode step of a small batch costs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from streamcap.errors import InputError

_SMALLEST = 1e-12
"""Below this a row is as good as zero; dividing by it must not overflow."""


class Int8Linear(nn.Module):
    """y = W x + b with W in int8 (one scale for each output) and x in 8 bits, or 7 where the CPU's sums saturate.

    Where a sequence has several positions, each is brought to a largest value of 1 first: FBGEMM has one activation
    scale for the whole input, and the first position of a GPT-2 has values a hundred times those of the others. The
    single positions of a decode step are alike, and save that work.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bias = linear.bias
        self.packed = _pack(linear.weight.detach(), None if bias is None else bias.detach())
        self.register_buffer("bias", torch.zeros(1) if bias is None else bias.detach().clone(), persistent=False)
        self.bias: Tensor
        self.narrow_range = int8_saturates()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) float32 → (…, out) float32."""
        if x.dim() == 1:
            only: Tensor = torch.ops.quantized.linear_dynamic(x.unsqueeze(0), self.packed, self.narrow_range)
            return only.squeeze(0)
        if x.size(-2) == 1:
            alone: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.narrow_range)
            return alone
        scale = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        product: Tensor = torch.ops.quantized.linear_dynamic(x / scale, self.packed, self.narrow_range)
        # The packed product has added the bias to W x / scale.
        return product.sub_(self.bias).mul_(scale).add_(self.bias)


def _pack(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    # A channel of zeros would have a scale of zero.
    scales = (weight.abs().amax(1) / 127).clamp_min(_SMALLEST)
    with warnings.catch_warnings():
        # torch means to drop quantised tensors; the products keep working on packed weights.
        warnings.simplefilter("ignore", UserWarning)
        codes = torch.quantize_per_channel(
            weight.float(), scales.double(), torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
        )
        packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(codes, None if bias is None else bias.float())
    return packed


@cache
def engine() -> str | None:
    """The engine of torch's that int8 products run on here; None where there is none."""
    for name in ("x86", "fbgemm"):
        if name in torch.backends.quantized.supported_engines:
            return name
    return None


@cache
def int8_saturates() -> bool:
    """Whether products of full 8-bit activations go wrong on this CPU.

    Without VNNI, pairs of products are summed in 16 bits, and 2 × 255 × 127 does not fit. Tried, not looked up.
    """
    linear = torch.ops.quantized.linear_dynamic
    packed = _pack(torch.ones(16, 64), None)
    out = linear(torch.ones(1, 64), packed, False)
    return bool((out - 64).abs().max() > 1)


_WHOLE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules of torch's that read the weights of the layers within them; they stay as they are."""


def quantize(module: nn.Module) -> nn.Module:
    """Every `nn.Linear` in `module` becomes an Int8Linear, in place. Raises InputError where torch has no products."""
    name = engine()
    if name is None:
        raise InputError("precision int8 needs a torch with FBGEMM (x86 CPUs); use fp32 here")
    torch.backends.quantized.engine = name
    replace_linears(module, Int8Linear)
    return module


def replace_linears(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Every `nn.Linear` in `module` becomes what `make` gives for it, in place."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            setattr(module, name, make(child))
        elif not isinstance(child, _WHOLE):
            replace_linears(child, make)
