"""Replaces the modules of a model on the CPU by the compiled kernels.

That covers GPT-2, the layers of encoders and mappings, convolutions and linear layers. Without a compiled library, and
for layers of an unsupported shape, torch's own modules stay.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from streamcap.captioner.kernels import int8_torch, loading
from streamcap.captioner.kernels.packed import (
    FusedLayers,
    LayerWeights,
    PackedEmbedding,
    PackedLayers,
    PackedLinear,
    can_fuse,
    is_supported,
    matmul,
)
from streamcap.captioner.kernels.packed_convolution import PackedConvolution
from streamcap.captioner.kernels.packed_encoder import PackedEncoder
from streamcap.captioner.models.attention_context import AttentionContext
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.mapping import TransformerMapping
from streamcap.captioner.models.mini_encoder import ConvNorm, GridMapping, StagedEncoder
from streamcap.captioner.models.vit import VisionTransformer


def install_kernels(module: nn.Module, precision: str) -> None:
    """Make `module` use the kernels where they support it, in place, in `int8` or `fp32`; a GPT-2 entirely or not."""
    if loading.load_library(precision) is None:
        return
    if isinstance(module, GPT2):
        if not module.config.cross_width and can_fuse(_blocks(module)):
            install_gpt2_kernels(module, precision)
        return
    for child in list(module.modules()):
        if isinstance(child, VisionTransformer):
            _install_vision(child, precision)
        elif isinstance(child, GridMapping):
            _install_grid_mapping(child, precision)
        elif isinstance(child, ConvNorm):
            _install_convolution(child)
        elif isinstance(child, TransformerMapping) and not child.cross:
            _install_mapping(child, precision)
    for child in list(module.modules()):
        if isinstance(child, StagedEncoder) and all(
            isinstance(s.part.packed, PackedConvolution) for s in child.steps()
        ):
            child.packed = PackedEncoder(child.steps())
    int8_torch.replace_linears(
        module, lambda linear: PackedLinear(linear, precision) if is_supported(linear) else linear
    )


# GPT-2 ----------------------------------------------------------------------------------------------------------


def install_gpt2_kernels(gpt2: GPT2, precision: str, library: ctypes.CDLL | None = None) -> None:
    """Make a GPT-2 run all layers in one kernel call and its head in another, in place."""
    tied = gpt2.head.weight is gpt2.wte.weight
    plain: Any = gpt2.head
    head = PackedLinear(plain, precision)
    fused = FusedLayers(
        _blocks(gpt2),
        heads=gpt2.config.n_head,
        activation=gpt2.config.activation_function,
        precision=precision,
        after=head,
        library=library,
    )
    blocks: list[Any] = list(gpt2.blocks)
    for block, (qkv, proj, fc1, fc2) in zip(blocks, fused.linears, strict=True):
        block.attention.qkv, block.attention.out, block.fc1, block.fc2 = qkv, proj, fc1, fc2
    gpt2.head = head
    if tied and precision == "fp32":
        gpt2.wte = PackedEmbedding(head)

    gpt2.backend = KernelBackend(fused, gpt2.norm, head)


class KernelBackend:
    """GPT-2 on the kernels: all layers in one call, the head in another (see `DecoderBackend`)."""

    row_independent = True

    def __init__(self, fused: FusedLayers, norm: nn.LayerNorm, head: PackedLinear) -> None:
        self._fused, self._norm, self._head = fused, norm, head

    def run_layers(self, x: Tensor, context: AttentionContext, output_steps: Tensor | None = None) -> Tensor:
        """The kernels are always causal up to the written position, so `context.causal` and `.mask` are not read."""
        positions = None if context.positions is None else context.positions[:, 0].contiguous()
        return self._fused.run(
            x, context.keys, context.values, start=context.start, positions=positions, output_steps=output_steps
        )

    def logits(self, hidden: Tensor) -> Tensor:
        return matmul(
            self._head, hidden, norm=self._norm, following=self._fused.linears[0][0], library=self._fused.library
        )


def uses_kernels(gpt2: GPT2) -> bool:
    """Whether this GPT-2 runs on the kernels."""
    return isinstance(gpt2.head, PackedLinear)


def _blocks(gpt2: GPT2) -> list[LayerWeights]:
    blocks: list[Any] = list(gpt2.blocks)
    return [
        LayerWeights(block.norm_1, block.attention.qkv, block.attention.out, block.norm_2, block.fc1, block.fc2)
        for block in blocks
    ]


# Encoders and mappings ------------------------------------------------------------------------------------------


def _install_vision(vision: VisionTransformer, precision: str) -> None:
    layers: list[Any] = list(vision.layers)
    layer_weights = [
        LayerWeights(layer.norm_1, layer.qkv, layer.out, layer.norm_2, layer.fc1, layer.fc2) for layer in layers
    ]
    if can_fuse(layer_weights):
        config = vision.config
        fused = FusedLayers(
            layer_weights,
            heads=config.heads,
            activation=config.activation,
            precision=precision,
            byte_activations=True,
        )
        vision.layers = nn.ModuleList([PackedLayers(fused, None if config.output == "states" else 1)])
    convolution: Any = vision.patches
    patches = _as_linear(convolution.weight.flatten(1), convolution.bias)
    if is_supported(patches):
        vision.patches = PackedLinear(patches, precision, byte_activations=True)


def _install_grid_mapping(mapping: GridMapping, precision: str) -> None:
    encoder: Any = mapping.layers
    layers: list[Any] = list(encoder.layers)
    layer_weights = [
        LayerWeights(
            layer.norm1,
            _as_linear(layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias),
            layer.self_attn.out_proj,
            layer.norm2,
            layer.linear1,
            layer.linear2,
        )
        for layer in layers
    ]
    if can_fuse(layer_weights):
        fused = FusedLayers(layer_weights, heads=layers[0].self_attn.num_heads, activation="gelu", precision=precision)
        mapping.add_module("layers", nn.Sequential(PackedLayers(fused, len(mapping.prefix)), encoder.norm))


def _install_mapping(mapping: TransformerMapping, precision: str) -> None:
    layers: list[Any] = list(mapping.transformer.layers)
    layer_weights = [
        LayerWeights(
            layer.norm1,
            _as_linear(torch.cat((layer.attn.to_queries.weight, layer.attn.to_keys_values.weight)), None),
            layer.attn.project,
            layer.norm2,
            layer.mlp.fc1,
            layer.mlp.fc2,
        )
        for layer in layers
    ]
    if can_fuse(layer_weights):
        fused = FusedLayers(layer_weights, heads=layers[0].attn.heads, activation="relu", precision=precision)
        mapping.add_module("transformer", PackedLayers(fused, -len(mapping.prefix_const)))


def _install_convolution(part: ConvNorm) -> None:
    if isinstance(part.norm, nn.Identity) and loading.load_library("fp32") is not None:
        padding = 0 if part.late else part.conv.kernel_size[0] // 2
        part.packed = PackedConvolution(part.conv, padding, 1 if part.late else padding)
        part.add_module("conv", nn.Identity())  # its weights are in `packed`


def _as_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of this weight, (out, in)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
