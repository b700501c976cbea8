"""Square convolutions through `kernels/`, in float32."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.kernels.packed import ROW_PAD, PackedLinear, at, empty_floats, library_for, linear_struct

_STEPS = 16
"""Inputs of a convolution are filled up to whole multiples of this."""
_SEEN = 1 << 16
"""Floats that the pixels of one block of a convolution may see, so that they stay in a core's cache."""
_FEWEST = 12
"""Pixels of one block, at least; what one tile has at most in matmul.h."""


class _Grid(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("batch", "height", "width", "channels", "down", "across"),
            *("kernel", "stride", "before"),
        )
    ]


class PackedConvolution(nn.Module):
    """A square convolution in float32, as products; torch on one core takes two to three times as long.

    before, after: zeros above and on the left, and below and on the right.
    """

    def __init__(self, convolution: nn.Conv2d, before: int, after: int, library: ctypes.CDLL | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]
        self.channels = convolution.in_channels
        self.before, self.after = before, after
        weight = convolution.weight.detach().float().permute(0, 2, 3, 1).flatten(1)
        weight = F.pad(weight, (0, -weight.shape[1] % _STEPS))
        linear = nn.Linear(weight.shape[1], len(weight), bias=convolution.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if convolution.bias is not None:
            linear.bias = nn.Parameter(convolution.bias.detach().float(), requires_grad=False)
        self.linear = PackedLinear(linear, "fp32")
        # Looked up once: a small encoder has dozens of these, of a tenth of a millisecond each.
        self._weights, self._inputs, self._outputs = linear_struct(self.linear), linear.in_features, linear.out_features
        self._held = list(self.linear.buffers())  # what `_weights` points at, also where the module is moved
        self._convolve = (library or library_for("fp32")).streamcap_convolve

    def forward(self, x: Tensor, add: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """(B, C, H, W) → (B, out, H', W'), float32, all best with the channels last in memory.

        add: of the shape of what comes out, added before ReLU.
        """
        pixels = x.detach().float().permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = pixels.shape
        if channels != self.channels:
            raise ValueError(f"{channels} channels, where the convolution takes {self.channels}")
        down, across = ((side + self.before + self.after - self.kernel) // self.stride + 1 for side in (height, width))
        inputs, threads = self._inputs, torch.get_num_threads()
        block = max(_FEWEST, min(_SEEN // inputs, -(-batch * down * across // threads)))
        out = empty_floats(batch, down, across, self._outputs)
        if add is not None:
            out.copy_(add.permute(0, 2, 3, 1))
        scratch = empty_floats(threads * block * (inputs + ROW_PAD))
        grid = _Grid(batch, height, width, channels, down, across, self.kernel, self.stride, self.before)
        self._convolve(
            ctypes.byref(self._weights), ctypes.byref(grid), at(pixels), int(add is not None), int(relu),
            at(scratch), block, threads, at(out),
        )  # fmt: skip
        return out.permute(0, 3, 1, 2)
