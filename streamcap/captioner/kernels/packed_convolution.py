"""Square convolutions on the compiled kernels, in float32."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.kernels.packed import ROW_PAD, PackedLinear, at, empty_floats, library_for, linear_struct

_STEPS = 16
"""The inputs of a convolution are zero-padded to a multiple of this."""
_BLOCK_FLOATS = 1 << 16
"""Floats in the input patches of one block, at most, so that they stay in a core's cache."""
_MIN_BLOCK_PIXELS = 12
"""Output pixels in one block, at least; the largest TILE in matmul.h."""


class _Grid(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("batch", "height", "width", "channels", "down", "across"),
            *("kernel", "stride", "before"),
        )
    ]


class PackedConvolution(nn.Module):
    """A square convolution in float32 as im2col and matmul; torch on one core takes two to three times as long.

    before: rows and columns of zero padding above and on the left; after: below and on the right.
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
        # Prepared once: a small encoder has dozens of convolutions that take a tenth of a millisecond each.
        self._weights, self._inputs, self._outputs = linear_struct(self.linear), linear.in_features, linear.out_features
        self._keep_alive = list(self.linear.buffers())  # the memory behind `_weights`, even if the module is moved
        self._convolve = (library or library_for("fp32")).streamcap_convolve

    def forward(self, x: Tensor, add: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """(B, C, H, W) → (B, out, H', W'), float32; fastest with channels last in memory.

        add: a tensor of the output's shape, added before ReLU.
        """
        pixels = x.detach().float().permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = pixels.shape
        if channels != self.channels:
            raise ValueError(f"the input has {channels} channels, the convolution takes {self.channels}")
        down, across = ((side + self.before + self.after - self.kernel) // self.stride + 1 for side in (height, width))
        inputs, threads = self._inputs, torch.get_num_threads()
        block = max(_MIN_BLOCK_PIXELS, min(_BLOCK_FLOATS // inputs, -(-batch * down * across // threads)))
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
