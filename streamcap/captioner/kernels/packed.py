"""Linear layers and fused transformer layers on the compiled kernels, in int8 or float32.

All layers run in one call, without torch or Python in between. In comparison, one int8 matmul of torch has about 50 µs
of overhead, 49 times a token, and keeps only 7 bits of an activation on CPUs without VNNI (the kernels keep 12 or
more). torch's float32 matmul of a few rows takes two to three times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.kernels import loading
from streamcap.captioner.kernels.threads import num_threads

_MIN_SCALE = 1e-12
_PANEL = 32
"""Output channels stored side by side; PANEL in matmul.h."""
_INPUT_MULTIPLE = 64
"""The number of inputs of a layer must be a multiple of this: the kernels have no code for a partial vector."""
_ATTN_LANES = 64
"""Floats that encoder attention sums side by side; ATTN_LANES in layers.c."""
_SMALL_BATCH_ROWS = 4
"""Up to this many rows, every thread packs all rows for itself; SMALL_BATCH_ROWS in matmul.h."""
ROW_PAD = 48
"""Values that a packed row may need beyond its inputs: ROW_PAD in matmul.h or what is missing to BLOCK_INPUTS, at most
MAX_ROW_PAD in convolution.c."""
_MAX_ACTIVATION = 127 * 256 + 127
"""The largest quantized activation that is 256 × one signed byte + another."""
MAX_BYTE = 127
"""The largest activation of a layer with byte activations; MAX_BYTE in matmul.h."""
_BYTE_OFFSET = 128
"""BYTE_OFFSET in byte_tiles.h."""
_MAX_QUAD_SUM = 126
"""Of four weights whose products are summed in 16 bits: (126 + 4 / 2 for rounding) × 255 < 2¹⁵."""
_ACTIVATIONS = {"gelu": 1, "quick_gelu": 2, "relu": 3}
"""Codes in matmul.h; every other activation is the tanh form of GELU, 0."""


class PackedLinear(nn.Module):
    """y = W x + b with W in int8 and one scale for each output, or W in float32 and scales of 1.

    Stored in the order in which the kernels read: panels of 32 outputs; within a panel, for each pair of inputs
    (float32: for each input), all outputs side by side. qweight: (panels, in / 2, 32, 2) int8 or (panels, in, 32, 1)
    float32; scales and bias: (panels × 32) float32. The last panel is padded with zeros.

    byte_activations: int8 activations of at most 127 instead of 12 bits or more, for which AVX2 needs half as many
    instructions; weights are then scaled so that sums of four products fit 16 bits. offsets: (panels × 32) int32, what
    activations of 128 would add to each sum.
    """

    def __init__(self, linear: nn.Linear, precision: str, *, byte_activations: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.precision, self.byte_activations = precision, byte_activations and precision == "int8"
        weight = linear.weight.detach().float()
        if precision == "int8":
            scales = (weight.abs().amax(1) / 127).clamp_min(_MIN_SCALE)
            if byte_activations:
                scales = torch.maximum(scales, _largest_quad_sum(weight) / _MAX_QUAD_SUM)
            qweight = (weight / scales[:, None]).round_().to(torch.int8)
        else:
            scales, qweight = empty_floats(len(weight)).fill_(1), weight
        bias = empty_floats(self.out_features).zero_() if linear.bias is None else linear.bias.detach().float()
        missing = -self.out_features % _PANEL
        self.register_buffer("qweight", _to_panels(F.pad(qweight, (0, 0, 0, missing))))
        self.register_buffer("scales", F.pad(scales, (0, missing)))
        self.register_buffer("bias", F.pad(bias, (0, missing)))
        offsets = qweight.sum(1, dtype=torch.int32).mul_(_BYTE_OFFSET) if self.byte_activations else None
        self.register_buffer("offsets", None if offsets is None else F.pad(offsets, (0, missing)))
        self.qweight: Tensor
        self.scales: Tensor
        self.bias: Tensor
        self.offsets: Tensor | None
        self.struct: tuple[_Linear, list[Tensor]] | None = None
        """Of `linear_struct`, with the memory that it points to."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "struct": None}  # a copy has other addresses

    def weight(self) -> Tensor:
        """The dequantized weight: float32 (out, in)."""
        rows = self.qweight.transpose(1, 2).reshape(-1, self.in_features)
        return (rows * self.scales[:, None])[: self.out_features]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out) in float32; NaN throughout where x is not finite."""
        rows = x.reshape(-1, self.in_features)
        return matmul(self, rows).view(*x.shape[:-1], self.out_features)


def _largest_quad_sum(weight: Tensor) -> Tensor:
    """The largest sum of one sign of four weights that byte_tiles.h adds in 16 bits: (out, in) → (out)."""
    quads = weight.view(len(weight), -1, 2, 2, 2)  # of eight inputs 0, 1, 4, 5 and 2, 3, 6, 7
    return torch.maximum(quads.clamp_min(0).sum((2, 4)), quads.clamp_max(0).sum((2, 4)).neg()).flatten(1).amax(1)


def _to_panels(qweight: Tensor) -> Tensor:
    """int8 (out, in) → (panels, in / 2, 32, 2); float32 (out, in) → (panels, in, 32, 1)."""
    outputs, inputs = qweight.shape
    if qweight.dtype == torch.float32:
        return qweight.view(outputs // _PANEL, _PANEL, inputs).transpose(1, 2).contiguous().unsqueeze(-1)
    # Each pair moves as one 16-bit number.
    pairs = qweight.contiguous().view(torch.int16).view(outputs // _PANEL, _PANEL, inputs // 2)
    return pairs.transpose(1, 2).contiguous().view(torch.int8).view(outputs // _PANEL, inputs // 2, _PANEL, 2)


class PackedEmbedding(nn.Module):
    """Token embeddings read from the packed weights of the tied head, so that memory holds them once."""

    def __init__(self, head: PackedLinear) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that torch does not register the weights a second time

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (…) → float32 (…, width). Raises IndexError for a token outside the vocabulary."""
        if bool((tokens < 0).any()) or bool((tokens >= self._head[0].out_features).any()):
            raise IndexError(f"a token is outside the vocabulary of {self._head[0].out_features}")
        rows: Tensor = self._head[0].qweight[tokens // _PANEL, :, tokens % _PANEL, 0]
        return rows


def is_supported(linear: nn.Linear) -> bool:
    """Whether the kernels can run this layer."""
    return linear.in_features % _INPUT_MULTIPLE == 0


class _Linear(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("qweight", "scales", "bias", "offsets")] + [
        (name, ctypes.c_int32) for name in ("inputs", "outputs", "limit", "unused")
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("norm_1", ctypes.c_void_p),
        ("shift_1", ctypes.c_void_p),
        ("qkv", _Linear),
        ("proj", _Linear),
        ("norm_2", ctypes.c_void_p),
        ("shift_2", ctypes.c_void_p),
        ("fc1", _Linear),
        ("fc2", _Linear),
    ]


class _FusedLayers(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        ("after", ctypes.POINTER(_Linear)),
        ("epsilon", ctypes.c_float),
        ("count", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    ]


class _AttentionArgs(ctypes.Structure):
    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("layer", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("output_steps", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("steps", ctypes.c_int32),
        ("start", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
    ]


def library_for(precision: str) -> ctypes.CDLL:
    """The compiled kernels. Raises RuntimeError where they are unavailable; see `loading.load_library`."""
    library = loading.load_library(precision)
    if library is None:
        raise RuntimeError(f"the compiled {precision} kernels are unavailable; check loading.load_library() first")
    return library


def _activation_dtype(precision: str) -> torch.dtype:
    """The type of a packed activation; Value in matmul.h."""
    return torch.int16 if precision == "int8" else torch.float32


def empty_floats(*shape: int) -> Tensor:
    """Uninitialized float32 on the CPU, regardless of torch's default dtype and device."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _num_row_copies(rows: int, threads: int) -> int:
    """Rows of scratch for packed activations: with few rows, each thread has a copy of its own."""
    return max(rows, threads * min(rows, _SMALL_BATCH_ROWS))


def linear_struct(linear: PackedLinear) -> _Linear:
    """The C side's view of the layer, made once; it keeps the tensors of that time, even if the module is moved."""
    if linear.struct is not None:
        return linear.struct[0]
    limit = min(MAX_BYTE if linear.byte_activations else _MAX_ACTIVATION, (2**31 - 1) // (127 * linear.in_features))
    pointers = [tensor.data_ptr() for tensor in (linear.qweight, linear.scales, linear.bias)]
    pointers.append(0 if linear.offsets is None else linear.offsets.data_ptr())
    struct = _Linear(*pointers, linear.in_features, linear.out_features, limit, 0)
    linear.struct = struct, list(linear.buffers())
    return struct


def at(tensor: Tensor) -> ctypes.c_void_p:
    """The address of the tensor's data."""
    return ctypes.c_void_p(tensor.data_ptr())


def matmul(
    linear: PackedLinear,
    x: Tensor,
    *,
    norm: nn.LayerNorm | None = None,
    following: PackedLinear | None = None,
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """(rows, in) → (rows, out), float32, after the layer norm `norm` if given; all NaN if x is not finite.

    following: the layer that runs next; its weights are prefetched.
    """
    x = x.detach().float().contiguous()
    rows, width = x.shape
    out = empty_floats(rows, linear.out_features)
    if not rows or not bool(torch.isfinite(x.sum())):
        return out.fill_(torch.nan)
    threads = num_threads()
    floats = empty_floats(threads * rows)
    scratch = torch.empty(_num_row_copies(rows, threads) * (width + ROW_PAD), dtype=_activation_dtype(linear.precision))
    weight, shift = (None, None) if norm is None else (at(norm.weight), at(norm.bias))
    (library or library_for(linear.precision)).streamcap_linear(
        ctypes.byref(linear_struct(linear)),
        None if following is None else ctypes.byref(linear_struct(following)),
        weight,
        shift,
        ctypes.c_float(0.0 if norm is None else norm.eps),
        at(x),
        rows,
        at(floats),
        at(scratch),
        threads,
        at(out),
    )
    return out


@dataclass(frozen=True)
class LayerWeights:
    """One pre-norm layer: x + proj(attention(qkv(norm_1(x)))), then x + fc2(activation(fc1(norm_2(x)))).

    qkv: (width → 3 width), all heads' queries, then their keys, then their values. Norms are float32 with a bias.
    """

    norm_1: nn.LayerNorm
    qkv: nn.Linear
    proj: nn.Linear
    norm_2: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        return self.qkv, self.proj, self.fc1, self.fc2


def can_fuse(layers: Sequence[LayerWeights]) -> bool:
    """Whether the kernels can run these layers in one call."""
    first = layers[0]
    width, inner = first.proj.out_features, first.fc1.out_features
    # The scratch buffers are sized by the first layer's inner width.
    return width <= inner and all(
        all(is_supported(linear) for linear in layer.linears)
        and (layer.proj.out_features, layer.fc1.out_features) == (width, inner)
        and layer.norm_1.eps == layer.norm_2.eps == first.norm_1.eps
        for layer in layers
    )


class FusedLayers:
    """Packed pre-norm layers of one shape (see `can_fuse`), run in one call. Owns the memory that the C side reads.

    after: the linear layer that runs next; its weights are prefetched.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        *,
        heads: int,
        activation: str,
        precision: str,
        byte_activations: bool = False,
        after: PackedLinear | None = None,
        library: ctypes.CDLL | None = None,
    ) -> None:
        self.precision, self.heads = precision, heads
        self.width, self.inner = layers[0].proj.out_features, layers[0].fc1.out_features
        self.library = library or library_for(precision)
        self.linears = [
            [PackedLinear(linear, precision, byte_activations=byte_activations) for linear in layer.linears]
            for layer in layers
        ]
        self._norms = [
            [tensor.detach().float().contiguous() for norm in (layer.norm_1, layer.norm_2)
             for tensor in (norm.weight, norm.bias)] for layer in layers
        ]  # fmt: skip
        structs = [
            _Layer(
                *(tensor.data_ptr() for tensor in norms[:2]), *map(linear_struct, linears[:2]),
                *(tensor.data_ptr() for tensor in norms[2:]), *map(linear_struct, linears[2:]),
            )
            for norms, linears in zip(self._norms, self.linears, strict=True)
        ]  # fmt: skip
        self._layers = (_Layer * len(structs))(*structs)
        # Keeps the memory that the C side reads, even if a module is moved to another device.
        packed = [linear for linears in self.linears for linear in linears] + ([] if after is None else [after])
        self._keep_alive = [tensor for linear in packed for tensor in linear.buffers()]
        last = None if after is None else ctypes.pointer(linear_struct(after))
        self._fused = _FusedLayers(
            self._layers, last, layers[0].norm_1.eps, len(structs), heads, _ACTIVATIONS.get(activation, 0)
        )

    def run(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        *,
        start: int = 0,
        positions: Tensor | None = None,
        output_steps: Tensor | None = None,
    ) -> Tensor:
        """x: (rows, S, width) → the same shape, float32; all NaN if x is not finite and S is above 1.

        keys, values: the KV cache, (layers, rows, heads, positions, head width), float32, both with the same strides.
        New entries are written from position `start` on, or from `positions[row]` on, and attention is causal. Without
        a cache, attention is unmasked.

        output_steps: int64 (rows, W), ascending: returns only these steps, (rows, W, width), which saves most of the
        last layer's work.

        Raises ValueError for a cache of another dtype or too few rows, IndexError for one with too few positions.
        """
        x = x.detach().float().clone(memory_format=torch.contiguous_format)
        rows, steps, width = x.shape
        if not x.numel() or (steps > 1 and not bool(torch.isfinite(x.sum()))):
            # In a single step the NaN stays in its row and reaches the check in `matmul` of the head.
            x.fill_(torch.nan)
            return x if output_steps is None else x[:, : output_steps.shape[1]]
        count, threads = rows * steps, num_threads()
        if keys is None or values is None:
            args = _AttentionArgs()
            own = self._encoder_scratch_floats(steps)
        else:
            if keys.dtype != torch.float32 or len(self.linears) > len(keys) or rows > keys.shape[1]:
                raise ValueError(f"a cache of {tuple(keys.shape)}, {keys.dtype}, does not fit {rows} rows")
            if start + steps > keys.shape[3]:
                raise IndexError(f"{steps} positions from {start} on do not fit a cache of {keys.shape[3]}")
            args = _AttentionArgs(keys.data_ptr(), values.data_ptr(), *keys.stride()[:3])
            own = keys.shape[3]
        args.rows, args.steps, args.start = rows, steps, start
        if positions is not None:
            args.positions = positions.data_ptr()
        if output_steps is not None:
            output_steps = output_steps.contiguous()
            args.output_steps, args.num_outputs = output_steps.data_ptr(), output_steps.shape[1]
        floats = empty_floats(count * (3 * width + self.inner + threads) + threads * own)
        scratch = torch.empty(
            _num_row_copies(count, threads) * (self.inner + ROW_PAD), dtype=_activation_dtype(self.precision)
        )
        self.library.streamcap_layers(
            ctypes.byref(self._fused), ctypes.byref(args), at(x), at(floats), at(scratch), threads, ctypes.c_int64(own)
        )
        if output_steps is None:
            return x
        return x.view(count, width)[: output_steps.numel()].view(*output_steps.shape, width)

    def _encoder_scratch_floats(self, steps: int) -> int:
        """Scratch floats per thread for `attention_full` in layers.c."""
        depth = self.width // self.heads
        across, deep = (-(-count // _ATTN_LANES) * _ATTN_LANES for count in (steps, depth))
        return (depth + 1) * across + (steps + 1) * deep


class PackedLayers(nn.Module):
    """An encoder's layers: unmasked attention without a cache.

    first: return only the first `first` positions, or the last `-first` if it is negative; None: all.
    """

    def __init__(self, fused: FusedLayers, first: int | None = None) -> None:
        super().__init__()
        self._fused, self._first = fused, first

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) → the same shape, or (B, |first|, width); float32."""
        if self._first is None:
            return self._fused.run(x)
        steps = torch.arange(x.shape[1])
        steps = steps[: self._first] if self._first > 0 else steps[self._first :]
        return self._fused.run(x, output_steps=steps.expand(len(x), -1))
