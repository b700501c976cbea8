"""What of a model on a CPU goes through `kernels/`: GPT-2, layers of encoders and mappings, convolutions, products.

Where there is no compiled library, or a layer's shape does not suit it, torch's products stay.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from streamcap.captioner import compiled, quantized
from streamcap.captioner.coded import (
    CodedConvolution,
    CodedEmbedding,
    CodedLayers,
    CodedLinear,
    Parts,
    Stack,
    fits,
    product,
    stacks,
)
from streamcap.captioner.compact import ConvNorm, GridMapping
from streamcap.captioner.gpt2 import GPT2
from streamcap.captioner.mapping import TransformerMapping
from streamcap.captioner.vit import VisionTransformer


def encode(module: nn.Module, precision: str) -> None:
    """In place: what `kernels/` can run goes through them, in `int8` or `fp32`; a GPT-2 as a whole or not at all."""
    if compiled.library(precision) is None:
        return
    if isinstance(module, GPT2):
        if not module.config.cross_width and stacks(_blocks(module)):
            encode_gpt2(module, precision)
        return
    for child in list(module.modules()):
        if isinstance(child, VisionTransformer):
            _encode_vision(child, precision)
        elif isinstance(child, GridMapping):
            _encode_grid_mapping(child, precision)
        elif isinstance(child, ConvNorm):
            _encode_convolution(child)
        elif isinstance(child, TransformerMapping) and not child.cross:
            _encode_mapping(child, precision)
    quantized.replace(module, lambda linear: CodedLinear(linear, precision) if fits(linear) else linear)


# GPT-2 ----------------------------------------------------------------------------------------------------------


def encode_gpt2(gpt2: GPT2, precision: str, library: ctypes.CDLL | None = None) -> None:
    """All layers in one call and the head in another, in place."""
    tied = gpt2.head.weight is gpt2.wte.weight
    plain: Any = gpt2.head
    head = CodedLinear(plain, precision)
    stack = Stack(
        _blocks(gpt2),
        heads=gpt2.config.n_head,
        activation=gpt2.config.activation_function,
        precision=precision,
        after=head,
        library=library,
    )
    blocks: list[Any] = list(gpt2.blocks)
    for block, (qkv, mix, widen, narrow) in zip(blocks, stack.linears, strict=True):
        block.attention.qkv, block.attention.out, block.widen, block.narrow = qkv, mix, widen, narrow
    gpt2.head = head
    if tied and precision == "fp32":
        gpt2.wte = CodedEmbedding(head)

    def layers(
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
        last: Tensor | None = None,
    ) -> Tensor:
        """As `Blocks.forward`. Each row looks as far as it writes, which is what `causal` and `mask` mean there.

        last: int64 (rows,), the one position of each row whose outcome is wanted, (rows, width).
        """
        wanted = None if last is None else last[:, None]
        out = stack.run(x, keys, values, start=start, positions=positions, wanted=wanted)
        return out if last is None else out[:, 0]

    def logits(hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""
        return product(head, hidden, norm=gpt2.norm, following=stack.linears[0][0], library=library)

    gpt2.run_with(layers, logits)


def encoded(gpt2: GPT2) -> bool:
    """Whether it goes through the kernels."""
    return isinstance(gpt2.head, CodedLinear)


def _blocks(gpt2: GPT2) -> list[Parts]:
    blocks: list[Any] = list(gpt2.blocks)
    return [
        Parts(block.norm_1, block.attention.qkv, block.attention.out, block.norm_2, block.widen, block.narrow)
        for block in blocks
    ]


# Encoders and mappings ------------------------------------------------------------------------------------------


def _encode_vision(vision: VisionTransformer, precision: str) -> None:
    layers: list[Any] = list(vision.layers)
    parts = [Parts(layer.norm_1, layer.qkv, layer.out, layer.norm_2, layer.widen, layer.narrow) for layer in layers]
    if stacks(parts):
        config = vision.config
        stack = Stack(parts, heads=config.heads, activation=config.activation, precision=precision)
        vision.layers = nn.ModuleList([CodedLayers(stack, None if config.output == "states" else 1)])
    convolution: Any = vision.patches
    patches = _as_linear(convolution.weight.flatten(1), convolution.bias)
    if fits(patches):
        vision.patches = CodedLinear(patches, precision)


def _encode_grid_mapping(mapping: GridMapping, precision: str) -> None:
    encoder: Any = mapping.layers
    layers: list[Any] = list(encoder.layers)
    parts = [
        Parts(
            layer.norm1,
            _as_linear(layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias),
            layer.self_attn.out_proj,
            layer.norm2,
            layer.linear1,
            layer.linear2,
        )
        for layer in layers
    ]
    if stacks(parts):
        stack = Stack(parts, heads=layers[0].self_attn.num_heads, activation="gelu", precision=precision)
        mapping.add_module("layers", nn.Sequential(CodedLayers(stack, len(mapping.prefix)), encoder.norm))


def _encode_mapping(mapping: TransformerMapping, precision: str) -> None:
    layers: list[Any] = list(mapping.transformer.layers)
    parts = [
        Parts(
            layer.norm1,
            _as_linear(torch.cat((layer.attn.to_queries.weight, layer.attn.to_keys_values.weight)), None),
            layer.attn.project,
            layer.norm2,
            layer.mlp.fc1,
            layer.mlp.fc2,
        )
        for layer in layers
    ]
    if stacks(parts):
        stack = Stack(parts, heads=layers[0].attn.heads, activation="relu", precision=precision)
        mapping.add_module("transformer", CodedLayers(stack, -len(mapping.prefix_const)))


def _encode_convolution(part: ConvNorm) -> None:
    if isinstance(part.norm, nn.Identity) and compiled.library("fp32") is not None:
        around = 0 if part.late else part.conv.kernel_size[0] // 2
        part.coded = CodedConvolution(part.conv, around, 1 if part.late else around)
        part.add_module("conv", nn.Identity())  # its weights are in `coded`


def _as_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """weight: (out, in)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
