"""The mappings that train on cached features, and the checkpoint layout of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from streamcap.captioner.models.mapping import FrameMLPMapping, MLPMapping, PooledMapping, TransformerMapping
from streamcap.captioner.models.mini_encoder import build_mapping as build_grid
from streamcap.errors import InputError
from streamcap.training.options import TrainOptions

Layout = Literal["clipcap", "videocaptioner", "streamcap"]


@dataclass(frozen=True, slots=True)
class BuiltMapping:
    """A mapping and its checkpoint layout."""

    module: nn.Module
    layout: Layout
    config: Mapping[str, Any]
    """Fields of the JSON file beside the checkpoint; for `streamcap`, the configuration of the mapping."""


def build_mapping(options: TrainOptions, shape: tuple[int, ...], embed: int) -> BuiltMapping:
    """Build the mapping from features of `shape` (without the batch axis) to a GPT-2 of width `embed`.

    Raises InputError if `shape` or `embed` does not fit the mapping.
    """
    name = options.mapping
    clips = name.startswith("video-")
    axes = {"mlp": 1, "transformer": 1, "pooled": 1}.get(name, 2)
    if len(shape) != axes:
        expected = {1: "one embedding per image", 2: "frames of a clip" if clips else "a grid of cells"}[axes]
        raise InputError(f"mapping {name} takes {expected}; this cache has features of shape {shape}")
    width = shape[-1]
    if name in ("transformer", "video-transformer", "video-cross") and embed % options.mapper_heads:
        raise InputError(f"mapper_heads {options.mapper_heads} does not divide GPT-2's width {embed}")
    if name == "grid":
        return _grid(options, shape, embed)
    prefix = options.prefix
    if name == "pooled":
        if width != embed:
            raise InputError(f"mapping pooled needs features as wide as GPT-2 ({embed}); this cache has {width}")
        return BuiltMapping(
            PooledMapping(embed, 4 * embed, options.mapper_layers, prefix * embed),
            "videocaptioner",
            {"n_heads": options.mapper_heads},
        )
    if name == "mlp":
        # ClipCap uses one linear layer for prefixes over 10 positions; its loader reads two layers too.
        return BuiltMapping(MLPMapping(width, embed * prefix // 2, embed * prefix, embed), "clipcap", {})
    if name == "video-mlp":
        return BuiltMapping(FrameMLPMapping(width, embed * prefix // 2, embed), "clipcap", {"clip_length": shape[0]})
    outputs = embed if clips else options.embedding_positions * embed
    cross = name == "video-cross"
    module = TransformerMapping(
        width, outputs, embed, prefix, options.mapper_heads, 2 * embed, options.mapper_layers, cross=cross
    )
    nn.init.normal_(module.prefix_const)
    config: dict[str, Any] = {"mapper_heads": options.mapper_heads, "cross": cross}
    return BuiltMapping(module, "clipcap", config | ({"clip_length": shape[0]} if clips else {}))


def _grid(options: TrainOptions, shape: tuple[int, ...], embed: int) -> BuiltMapping:
    config = {
        "architecture": "grid",
        "cells": shape[0],
        "channels": shape[1],
        "width": embed,
        "prefix": options.prefix,
        "layers": options.mapper_layers,
        "heads": options.mapper_heads,
        "dropout": options.dropout,
    }
    return BuiltMapping(build_grid(config), "streamcap", config)


def stored_tensors(built: BuiltMapping) -> dict[str, Tensor]:
    """The mapping's tensors by their names in its checkpoint layout, without the layout's prefix."""
    state = built.module.state_dict()
    if built.layout != "videocaptioner":
        return state
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith("layers."):
            out[name] = tensor
            continue
        stored_name = f"transformer_encoder.{name}"
        if ".value." in name:
            # Attention over one position ignores queries and keys, but the layout requires their weights.
            stored_name = stored_name.replace(".value.", ".self_attn.in_proj_")
            out[stored_name] = torch.cat((torch.zeros_like(tensor), torch.zeros_like(tensor), tensor))
        else:
            out[stored_name.replace(".out.", ".self_attn.out_proj.")] = tensor
    return out
