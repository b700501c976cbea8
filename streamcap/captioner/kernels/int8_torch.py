"""Linear layers in torch's int8 (FBGEMM): weights quantized per output channel, activations dynamically.

int8 weights are a quarter of float32's bytes, and reading the weights is the main cost of a decode step of a small
batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from streamcap.errors import InputError

_MIN_SCALE = 1e-12
"""Lower bound of a scale, so that dividing by the scale of a row of zeros does not overflow."""


class Int8Linear(nn.Module):
    """y = W x + b with W in int8 (one scale for each output) and x in 8 bits, or 7 on CPUs without VNNI.

    With several positions in a sequence, each position is first scaled to a maximum of 1: FBGEMM has one activation
    scale for the whole input, and the first position of a GPT-2 has values a hundred times those of the others. The
    single positions of a decode step have similar ranges and skip that work.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bias = linear.bias
        self.packed = _pack(linear.weight.detach(), None if bias is None else bias.detach())
        self.register_buffer("bias", torch.zeros(1) if bias is None else bias.detach().clone(), persistent=False)
        self.bias: Tensor
        self.narrow_range = int8_saturates()
        self.min_scale = _MIN_SCALE  # TorchScript reads no globals

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) float32 → (…, out) float32."""
        if x.dim() == 1:
            only: Tensor = torch.ops.quantized.linear_dynamic(x.unsqueeze(0), self.packed, self.narrow_range)
            return only.squeeze(0)
        if x.size(-2) == 1:
            alone: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.narrow_range)
            return alone
        scale = x.abs().amax(-1, keepdim=True).clamp_min_(self.min_scale)
        scaled: Tensor = torch.ops.quantized.linear_dynamic(x / scale, self.packed, self.narrow_range)
        # linear_dynamic has already added the bias, which must not be scaled.
        return scaled.sub_(self.bias).mul_(scale).add_(self.bias)


def _pack(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    # A channel of zeros would have a scale of zero.
    scales = (weight.abs().amax(1) / 127).clamp_min(_MIN_SCALE)
    with warnings.catch_warnings():
        # torch deprecates quantized tensors; linear_dynamic keeps working on packed weights.
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.quantize_per_channel(
            weight.float(), scales.double(), torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
        )
        packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(
            quantized, None if bias is None else bias.float()
        )
    return packed


@cache
def engine() -> str | None:
    """torch's engine for int8 matmul on this CPU; None if it has none."""
    for name in ("x86", "fbgemm"):
        if name in torch.backends.quantized.supported_engines:
            return name
    return None


@cache
def int8_saturates() -> bool:
    """Whether FBGEMM saturates with full 8-bit activations on this CPU; measured, not read from the CPU flags.

    Without VNNI, it sums pairs of 8-bit multiplications in 16 bits, and 2 × 255 × 127 does not fit.
    """
    linear = torch.ops.quantized.linear_dynamic
    packed = _pack(torch.ones(16, 64), None)
    out = linear(torch.ones(1, 64), packed, False)
    return bool((out - 64).abs().max() > 1)


_OPAQUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""torch modules that read the weights of their child layers directly; their children are not replaced."""


def quantize(module: nn.Module) -> nn.Module:
    """Replace every `nn.Linear` in `module` by an Int8Linear, in place. Raises InputError if torch has no FBGEMM."""
    name = engine()
    if name is None:
        raise InputError("precision int8 needs a torch with FBGEMM (x86 CPUs); use fp32 here")
    torch.backends.quantized.engine = name
    replace_linears(module, Int8Linear)
    return module


def replace_linears(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every `nn.Linear` in `module` by `make(linear)`, in place."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            setattr(module, name, make(child))
        elif not isinstance(child, _OPAQUE):
            replace_linears(child, make)
