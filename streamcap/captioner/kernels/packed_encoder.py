"""The convolutions of an encoder in one call: between small ones, Python and torch take as long as they do."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from streamcap.captioner.kernels.packed import _Linear, at, empty_floats, library_for
from streamcap.captioner.kernels.packed_convolution import Grid, PackedConvolution
from streamcap.captioner.kernels.threads import num_threads
from streamcap.captioner.models.mini_encoder import ConvStep

MAX_PLANS = 32
"""Input shapes whose plan is kept."""


class _Convolution(ctypes.Structure):
    _fields_ = [
        ("linear", _Linear),
        ("grid", Grid),
        ("x", ctypes.c_void_p),
        ("add", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("relu", ctypes.c_int32),
        ("block", ctypes.c_int32),
    ]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The calls for one shape of input, and the memory that they use."""

    calls: ctypes.Array[_Convolution]
    images: Tensor
    out: Tensor
    scratch: Tensor
    buffers: Sequence[Tensor]


class PackedEncoder(nn.Module):
    """Convolutions that read each other's outputs. Not thread-safe: all calls share its memory.

    steps: in order; the last one's output is the result. Each one's `part.packed` is a PackedConvolution.
    """

    def __init__(self, steps: Sequence[ConvStep]) -> None:
        super().__init__()
        self._steps = list(steps)
        self._plans: OrderedDict[tuple[int, ...], _Plan] = OrderedDict()
        self._run = library_for("fp32").streamcap_convolutions

    def forward(self, pixels: Tensor) -> Tensor:
        """Float (B, C, H, W) → (B, out, H', W'); fastest with channels last in memory."""
        images = pixels.detach().permute(0, 2, 3, 1)
        threads = num_threads()
        key = (*images.shape, threads)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._planned(tuple(images.shape), threads)
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        plan.images.copy_(images)
        self._run(plan.calls, len(plan.calls), at(plan.scratch), threads)
        return plan.out.clone().permute(0, 3, 1, 2)

    def _planned(self, shape: tuple[int, ...], threads: int) -> _Plan:
        images = empty_floats(*shape)
        last_use = {-1: 0}
        for number, step in enumerate(self._steps):
            last_use |= {used: number for used in (step.source, step.add) if used is not None}
        free: list[Tensor] = []
        buffers: list[Tensor] = []
        outputs: dict[int, tuple[Tensor, tuple[int, int, int]]] = {-1: (images, (shape[0], shape[1], shape[2]))}
        calls, most = [], 0
        for number, step in enumerate(self._steps):
            convolution = step.part.packed
            assert isinstance(convolution, PackedConvolution)  # noqa: S101 - the caller installed it
            x, size = outputs[step.source]
            grid, block, floats = convolution.plan(*size, threads)
            most = max(most, floats)
            count = grid.batch * grid.down * grid.across * convolution.outputs
            fitting = [one for one in free if one.numel() >= count]
            if fitting:
                out = fitting[0]
                free = [one for one in free if one is not out]
            else:
                out = empty_floats(count)
                buffers.append(out)
            outputs[number] = out, (grid.batch, grid.down, grid.across)
            add = None if step.add is None else outputs[step.add][0].data_ptr()
            calls.append(
                _Convolution(convolution.weights, grid, x.data_ptr(), add, out.data_ptr(), int(step.relu), block)
            )
            free += [outputs[used][0] for used, last in last_use.items() if last == number and used >= 0]
        out, result = outputs[len(self._steps) - 1]
        last = self._steps[-1].part.packed
        assert isinstance(last, PackedConvolution)  # noqa: S101 - as above
        return _Plan(
            (_Convolution * len(calls))(*calls),
            images,
            out[: result[0] * result[1] * result[2] * last.outputs].view(*result, last.outputs),
            empty_floats(most),
            buffers,
        )
