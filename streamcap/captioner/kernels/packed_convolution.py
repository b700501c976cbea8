"""Square convolutions on the compiled kernels, in float32."""

from __future__ import annotations

import ctypes

import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.kernels.packed import ROW_PAD, PackedLinear, at, empty_floats, library_for, linear_struct
from streamcap.captioner.kernels.threads import num_threads

_STEPS = 16
"""The inputs of a convolution are zero-padded to a multiple of this."""
_BLOCK_FLOATS = 1 << 16
"""Floats in the input patches of one block, at most, so that they stay in a core's cache."""
_MIN_BLOCK_PIXELS = 12
"""Output pixels in one block, at least; the largest TILE in matmul.h."""


class Grid(ctypes.Structure):
    """The shapes of a convolution; Grid in convolution.c."""

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
        self.weights = linear_struct(self.linear)
        self._inputs, self.outputs = linear.in_features, linear.out_features
        self._keep_alive = list(self.linear.buffers())  # the memory behind `weights`, even if the module is moved
        self._convolve = (library or library_for("fp32")).streamcap_convolve

    def forward(self, x: Tensor, add: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """(B, C, H, W) → (B, out, H', W'), float32; fastest with channels last in memory.

        add: a tensor of the output's shape, added before ReLU.
        """
        pixels = x.detach().float().permute(0, 2, 3, 1).contiguous()
        if pixels.shape[3] != self.channels:
            raise ValueError(f"the input has {pixels.shape[3]} channels, the convolution takes {self.channels}")
        threads = num_threads()
        batch, height, width = pixels.shape[:3]
        grid, block, floats = self.plan(batch, height, width, threads)
        out = empty_floats(grid.batch, grid.down, grid.across, self.outputs)
        if add is not None:
            out.copy_(add.permute(0, 2, 3, 1))
        scratch = empty_floats(floats)
        self._convolve(
            ctypes.byref(self.weights), ctypes.byref(grid), at(pixels), int(add is not None), int(relu),
            at(scratch), block, threads, at(out),
        )  # fmt: skip
        return out.permute(0, 3, 1, 2)

    def plan(self, batch: int, height: int, width: int, threads: int) -> tuple[Grid, int, int]:
        """For such an input: its shapes, the output pixels of a block, and the floats of scratch."""
        down, across = ((side + self.before + self.after - self.kernel) // self.stride + 1 for side in (height, width))
        grid = Grid(batch, height, width, self.channels, down, across, self.kernel, self.stride, self.before)
        pixels = -(-batch * down * across // threads)
        block = max(_MIN_BLOCK_PIXELS, min(_BLOCK_FLOATS // self._inputs, pixels))
        return grid, block, threads * block * (self._inputs + ROW_PAD)
