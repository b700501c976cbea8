"""GPT-2 through `decoder.c`, in int8 or float32: all layers in one call, without torch or Python in between.

torch's own int8 products cost about 50 µs each beside their bytes, 49 times a token; and without VNNI they keep 7 bits
of an activation where these keep 12 and more. Its float32 products of four rows take more than twice as long as the
reading of their weights.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner import compiled
from streamcap.captioner.gpt2 import GPT2

_SMALLEST = 1e-12
_PANEL = 32
"""Outputs that lie side by side; PANEL in decoder.c."""
_LANES = 64
"""Widths are whole multiples of this, so that no vector is cut."""
_ACTIVATIONS = {"gelu": 1, "relu": 2}
"""As in decoder.c; all others are the tanh form, 0."""


class CodedLinear(nn.Module):
    """y = W x + b with W as int8 codes and one scale for each output, or as float32 and scales of 1.

    As `decoder.c` reads them: panels of 32 outputs, and in a panel, for each pair of inputs (float32: for each input),
    all outputs side by side: codes (panels, in / 2, 32, 2), or (panels, in, 32, 1); scales and bias (panels × 32). The
    last panel is filled up with zeros.
    """

    def __init__(self, linear: nn.Linear, precision: str) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        if precision == "int8":
            scales = (weight.abs().amax(1) / 127).clamp_min(_SMALLEST)
            codes = (weight / scales[:, None]).round_().to(torch.int8)
        else:
            scales, codes = torch.ones(len(weight)), weight
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach().float()
        missing = -self.out_features % _PANEL
        self.register_buffer("codes", _in_panels(F.pad(codes, (0, 0, 0, missing))))
        self.register_buffer("scales", F.pad(scales, (0, missing)))
        self.register_buffer("bias", F.pad(bias, (0, missing)))
        self.codes: Tensor
        self.scales: Tensor
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out) in float32, slowly: what the compiled product is, but for the rounding of x."""
        rows = self.codes.transpose(1, 2).reshape(-1, self.in_features)
        return F.linear(x, rows * self.scales[:, None], self.bias)[..., : self.out_features]


def _in_panels(codes: Tensor) -> Tensor:
    """int8 (out, in) → (panels, in / 2, 32, 2); float32 (out, in) → (panels, in, 32, 1)."""
    outputs, inputs = codes.shape
    if codes.dtype == torch.float32:
        return codes.view(outputs // _PANEL, _PANEL, inputs).transpose(1, 2).contiguous().unsqueeze(-1)
    # Each pair is moved as one number of 16 bits.
    pairs = codes.contiguous().view(torch.int16).view(outputs // _PANEL, _PANEL, inputs // 2)
    return pairs.transpose(1, 2).contiguous().view(torch.int8).view(outputs // _PANEL, inputs // 2, _PANEL, 2)


class CodedEmbedding(nn.Module):
    """Word embeddings out of the weights of the head they are tied to, which so lie in memory once."""

    def __init__(self, head: CodedLinear) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it is no second owner of the weights

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (…) → float32 (…, width)."""
        rows: Tensor = self._head[0].codes[tokens // _PANEL, :, tokens % _PANEL, 0]
        return rows


def fits(gpt2: GPT2, precision: str) -> bool:
    """Whether `decoder.c` can run this model here, in `int8` or `fp32`."""
    config = gpt2.config
    widths = (config.n_embd, config.n_inner)
    whole = all(width % _LANES == 0 for width in widths) and config.vocab_size >= _LANES
    # Its room is laid out by the inner width.
    whole = whole and config.n_inner >= config.n_embd
    return whole and not config.cross_width and compiled.library(precision) is not None


def encode(gpt2: GPT2, precision: str) -> None:
    """Every linear layer becomes a CodedLinear, in place, and the passes those of `decoder.c`."""
    tied = gpt2.head.weight is gpt2.wte.weight
    for module in [*gpt2.modules()]:
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, CodedLinear(child, precision))
    head: nn.Module = gpt2.head
    if tied and precision == "fp32" and isinstance(head, CodedLinear):
        gpt2.wte = CodedEmbedding(head)
    passes = Passes(gpt2, precision)
    gpt2.run_with(passes.layers, passes.head)


class _Linear(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("codes", "scales", "bias")] + [
        (name, ctypes.c_int32) for name in ("inputs", "outputs", "limit", "unused")
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("norm_1", ctypes.c_void_p),
        ("shift_1", ctypes.c_void_p),
        ("qkv", _Linear),
        ("mix", _Linear),
        ("norm_2", ctypes.c_void_p),
        ("shift_2", ctypes.c_void_p),
        ("widen", _Linear),
        ("narrow", _Linear),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        ("norm", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("head", _Linear),
        ("epsilon", ctypes.c_float),
        ("count", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    ]


class _Place(ctypes.Structure):
    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("layer", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("steps", ctypes.c_int32),
        ("start", ctypes.c_int32),
    ]


class Passes:
    """`GPT2.run_blocks` and `GPT2.logits` of one encoded model."""

    def __init__(self, gpt2: GPT2, precision: str, library: ctypes.CDLL | None = None) -> None:
        found = library or compiled.library(precision)
        if found is None:
            raise RuntimeError("the compiled decoder is not to be had; ask fits() first")
        self._library = found
        self._activations = torch.int16 if precision == "int8" else torch.float32
        self._config = gpt2.config
        self._kept: list[Tensor] = []
        """What the C side points at."""
        blocks: list[Any] = list(gpt2.blocks)
        layers = [
            _Layer(
                *self._norm(block.norm_1),
                self._linear(block.attention.qkv),
                self._linear(block.attention.out),
                *self._norm(block.norm_2),
                self._linear(block.widen),
                self._linear(block.narrow),
            )
            for block in blocks
        ]
        self._layers = (_Layer * len(layers))(*layers)
        config = gpt2.config
        activation = _ACTIVATIONS.get(config.activation_function, 0)
        self._model = _Model(
            self._layers, *self._norm(gpt2.norm), self._linear(gpt2.head),
            config.layer_norm_epsilon, len(layers), config.n_head, activation,
        )  # fmt: skip

    def _pointer(self, tensor: Tensor) -> int:
        kept = tensor.detach().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()

    def _norm(self, norm: nn.Module) -> tuple[int, int]:
        weight, bias = norm.weight, norm.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)  # noqa: S101 - GPT-2's norms have both
        return self._pointer(weight.float()), self._pointer(bias.float())

    def _linear(self, linear: nn.Module) -> _Linear:
        assert isinstance(linear, CodedLinear)  # noqa: S101 - encode has made them
        inputs, outputs = linear.in_features, linear.out_features
        limit = min(32767, (2**31 - 1) // (127 * inputs))
        pointers = [self._pointer(tensor) for tensor in (linear.codes, linear.scales, linear.bias)]
        return _Linear(*pointers, inputs, outputs, limit, 0)

    def layers(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        cross_keys: Tensor | None,
        cross_values: Tensor | None,
        start: int,
        stop: int,
        causal: bool,
        positions: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """As `Blocks.forward`. Each row looks as far as it writes, which is what `causal` and `mask` mean there."""
        x = x.float().clone(memory_format=torch.contiguous_format)
        rows, steps, width = x.shape
        if steps > 1 and not bool(torch.isfinite(x.sum())):
            # Integers know no NaN. Of a single step it stays in the sum that the head looks at.
            return x.fill_(torch.nan)
        count, threads, longest = rows * steps, torch.get_num_threads(), keys.shape[3]
        inner = self._config.n_inner
        floats = torch.empty(count * (3 * width + inner + threads) + threads * longest)
        room = torch.empty(threads * count * max(width, inner), dtype=self._activations)
        strides = keys.stride()
        place = _Place(
            keys.data_ptr(), values.data_ptr(), *strides[:3], None if positions is None else positions.data_ptr(),
            rows, steps, start,
        )  # fmt: skip
        self._library.streamcap_layers(
            ctypes.byref(self._model), ctypes.byref(place), _at(x), _at(floats), _at(room), threads, longest
        )
        return x

    def head(self, hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""
        hidden = hidden.float().contiguous()
        rows, width = hidden.shape
        logits = torch.empty(rows, self._config.vocab_size)
        if not bool(torch.isfinite(hidden.sum())):
            return logits.fill_(torch.nan)
        threads = torch.get_num_threads()
        floats = torch.empty(threads * rows)
        room = torch.empty(threads * rows * width, dtype=self._activations)
        self._library.streamcap_head(
            ctypes.byref(self._model), _at(hidden), rows, _at(floats), _at(room), threads, _at(logits)
        )
        return logits


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
