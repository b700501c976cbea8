"""Loads vision transformers in `transformers`' format: CLIP's vision tower, ViT, and a directory with a CLIP."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamcap.atomic import read_json
from streamcap.captioner.checkpoints.settings import INDEX_SUFFIX
from streamcap.captioner.checkpoints.tensors import (
    Shape,
    Weights,
    check_state_dict,
    layer_count,
    load_into,
    matrix,
    read_weights,
)
from streamcap.captioner.models.uninitialized import uninitialized
from streamcap.captioner.models.vision import CLIP_MEAN, CLIP_STD, Vision
from streamcap.captioner.models.vit import Output, VisionTransformer, ViTConfig
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

_LINEARS = ("q", "k", "v", "out", "fc1", "fc2")
_CLIP_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
}
_VIT_NAMES = {
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "out": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm_1": "layernorm_before",
    "norm_2": "layernorm_after",
}
# transformers 5 renamed ViT's modules; these patterns map the new names to the old ones.
_VIT_RENAMED = [
    (re.compile(r"^layers\.(\d+)\."), r"encoder.layer.\1."),
    (re.compile(r"\.attention\.q_proj\."), ".attention.attention.query."),
    (re.compile(r"\.attention\.k_proj\."), ".attention.attention.key."),
    (re.compile(r"\.attention\.v_proj\."), ".attention.attention.value."),
    (re.compile(r"\.attention\.o_proj\."), ".attention.output.dense."),
    (re.compile(r"\.mlp\.fc1\."), ".intermediate.dense."),
    (re.compile(r"\.mlp\.fc2\."), ".output.dense."),
]


def clip_tower(
    weights: Mapping[str, Tensor],
    fields: Mapping[str, Any],
    where: str,
    *,
    prefix: str,
    output: Output,
    projection: Tensor | None = None,
    image_spec: ImageSpec | None = None,
) -> Vision:
    """CLIP's vision tower from the keys under `vision_model.`. prefix: a key prefix, for messages.

    fields: a CLIPVisionConfig, possibly empty; sizes come from the shapes. projection: `visual_projection.weight`, for
    the projected output. Raises InputError that names the invalid key.
    """
    kept = {key: value for key, value in weights.items() if key != "embeddings.position_ids"}
    positions, width = matrix(kept, "embeddings.position_embedding.weight", where, prefix=prefix)
    patch = _patch(kept, "embeddings.patch_embedding.weight", where, prefix)
    inner, _ = matrix(kept, "encoder.layers.0.mlp.fc1.weight", where, prefix=prefix)
    if output == "projected" and projection is None:
        raise InputError(f"{where}: visual_projection.weight is missing")
    config = ViTConfig(
        image=_side(positions, where, f"{prefix}embeddings.position_embedding.weight") * patch,
        patch=patch,
        width=width,
        layers=layer_count(kept, r"encoder\.layers\.(\d+)\."),
        heads=_heads(width, fields, where),
        inner=inner,
        activation=str(fields.get("hidden_act") or "quick_gelu"),
        epsilon=float(fields.get("layer_norm_eps") or 1e-5),
        output=output,
        pre_norm=True,
        patch_bias=False,
        projection=0 if projection is None or output != "projected" else projection.shape[0],
    )
    expected: dict[str, Shape] = {
        "embeddings.class_embedding": (width,),
        "embeddings.position_embedding.weight": (positions, width),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        **_norms(("pre_layrnorm", "post_layernorm"), width),
        **_layers("encoder.layers.", _CLIP_NAMES, config),
    }
    check_state_dict(kept, expected, where, prefix=prefix)
    own = {
        "class_token": kept["embeddings.class_embedding"],
        "positions": kept["embeddings.position_embedding.weight"],
        "patches.weight": kept["embeddings.patch_embedding.weight"],
        **_renamed(kept, "pre_layrnorm", "norm_before"),
        **_renamed(kept, "post_layernorm", "norm"),
        **_own_layers(kept, "encoder.layers.", _CLIP_NAMES, config),
    }
    if config.projection and projection is not None:
        own["projection.weight"] = projection
    spec = image_spec or ImageSpec(config.image, config.image, "crop", "bicubic", CLIP_MEAN, CLIP_STD)
    return _vision(config, own, spec, where)


def vit(
    weights: Mapping[str, Tensor], fields: Mapping[str, Any], where: str, *, prefix: str, image_spec: ImageSpec | None
) -> Vision:
    """ViT from ViTModel's keys, old or new names; its output is the last hidden states, without the pooler.

    fields: a ViTConfig. Raises InputError that names the invalid key.
    """
    kept: Weights = {}
    for key, value in weights.items():
        if key.startswith("pooler."):
            continue
        for pattern, name in _VIT_RENAMED:
            key = pattern.sub(name, key)
        kept[key] = value
    table = kept.get("embeddings.position_embeddings")
    if table is None or table.dim() != 3:
        raise InputError(f"{where}: {prefix}embeddings.position_embeddings is missing or does not have three sizes")
    positions, width = table.shape[1], table.shape[2]
    patch = _patch(kept, "embeddings.patch_embeddings.projection.weight", where, prefix)
    inner, _ = matrix(kept, "encoder.layer.0.intermediate.dense.weight", where, prefix=prefix)
    config = ViTConfig(
        image=_side(positions, where, f"{prefix}embeddings.position_embeddings") * patch,
        patch=patch,
        width=width,
        layers=layer_count(kept, r"encoder\.layer\.(\d+)\."),
        heads=_heads(width, fields, where),
        inner=inner,
        activation=str(fields.get("hidden_act") or "gelu"),
        epsilon=float(fields.get("layer_norm_eps") or 1e-12),
        output="states",
        pre_norm=False,
        patch_bias=True,
    )
    names = dict(_VIT_NAMES)
    expected: dict[str, Shape] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, positions, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **_norms(("layernorm",), width),
        **_layers("encoder.layer.", names, config),
    }
    without_bias = [
        f"encoder.layer.{layer}.{names[part]}.bias" for layer in range(config.layers) for part in ("q", "k", "v")
    ]
    check_state_dict(kept, expected, where, prefix=prefix, optional=without_bias)
    own = {
        "class_token": kept["embeddings.cls_token"].reshape(width),
        "positions": table.reshape(positions, width),
        **_renamed(kept, "embeddings.patch_embeddings.projection", "patches"),
        **_renamed(kept, "layernorm", "norm"),
        **_own_layers(kept, "encoder.layer.", names, config),
    }
    spec = image_spec or ImageSpec(config.image, config.image, "squash", "bilinear")
    return _vision(config, own, spec, where)


def clip_directory(directory: Path, output: Output) -> Vision:
    """The vision tower of a CLIP in `transformers`' layout: config.json and model.safetensors or pytorch_model.bin.

    A complete CLIPModel or its vision part; the text tower's tensors are ignored. Raises InputError.
    """
    config = read_json(directory / "config.json")
    fields = config.get("vision_config") if isinstance(config.get("vision_config"), Mapping) else config
    file = weights_file(directory)
    weights = read_weights(file)
    nested = "vision_model." if any(key.startswith("vision_model.") for key in weights) else ""
    others = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
    tower = {key: value for key, value in weights.items() if not key.startswith(others)}
    stray = [key for key in tower if not key.startswith(nested)]
    if stray:
        raise InputError(f"{file}: unexpected key {stray[0]}")
    tower = {key.removeprefix(nested): value for key, value in tower.items()}
    return clip_tower(
        tower,
        fields or {},
        str(file),
        prefix=nested,
        output=output,
        projection=weights.get("visual_projection.weight"),
        image_spec=processor_image_spec(directory),
    )


def weights_file(directory: Path) -> Path:
    """The weights file of a directory in `transformers`' layout, or the index of its shards.

    Raises InputError if there is none.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        for file in (directory / name, directory / f"{name}{INDEX_SUFFIX}"):
            if file.is_file():
                return file
    raise InputError(f"{directory}: contains neither model.safetensors nor pytorch_model.bin, nor shards of them")


def processor_image_spec(directory: Path) -> ImageSpec | None:
    """The image size and normalization in preprocessor_config.json; None without one.

    CLIP: resize the shorter side to `size`, then crop the center. ViT: squash to `size`. Raises InputError for other
    settings.
    """
    file = directory / "preprocessor_config.json"
    if not file.is_file():
        return None
    fields = read_json(file)
    fields = fields.get("image_processor", fields)
    size, crop = fields.get("size"), fields.get("crop_size")
    cropped = bool(fields.get("do_center_crop", False))
    target = crop if cropped and crop is not None else size
    width, height = _pair(target, file)
    if cropped and size is not None and min(_pair(size, file)) != min(width, height):
        raise InputError(f"{file}: resizing to {size} before cropping to {crop} is not supported")
    interpolation = {0: "area", 2: "bilinear", 3: "bicubic", None: "bicubic" if cropped else "bilinear"}.get(
        fields.get("resample")
    )
    if interpolation is None:
        raise InputError(f"{file}: resample {fields.get('resample')!r} is not supported")
    default = (CLIP_MEAN, CLIP_STD) if cropped else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ImageSpec.from_json(
        {
            "width": width,
            "height": height,
            "fit": "crop" if cropped else "squash",
            "interpolation": interpolation,
            "mean": fields.get("image_mean") or default[0],
            "std": fields.get("image_std") or default[1],
        }
    )


def _pair(size: object, file: Path) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        width, height = size.get("width", side), size.get("height", side)
        if isinstance(width, int) and isinstance(height, int):
            return width, height
    raise InputError(f"{file}: size {size!r} is not understood")


def _patch(weights: Mapping[str, Tensor], key: str, where: str, prefix: str) -> int:
    tensor = weights.get(key)
    if tensor is None:
        raise InputError(f"{where}: {prefix}{key} is missing")
    if tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        raise InputError(f"{where}: {prefix}{key} has shape {tuple(tensor.shape)}, expected (width, 3, side, side)")
    return int(tensor.shape[2])


def _side(positions: int, where: str, key: str) -> int:
    side = math.isqrt(max(positions - 1, 0))
    if side < 1 or side * side != positions - 1:
        raise InputError(f"{where}: {key} has {positions} positions, expected a square number plus one")
    return side


def _heads(width: int, fields: Mapping[str, Any], where: str) -> int:
    heads = fields.get("num_attention_heads")
    if heads is None:
        if width % 64:
            raise InputError(f"{where}: vision width {width} is not a multiple of 64; its number of heads is unknown")
        return width // 64
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise InputError(f"{where}: vision width {width} does not divide into num_attention_heads {heads!r}")
    return heads


def _norms(names: tuple[str, ...], width: int) -> dict[str, Shape]:
    return {f"{name}.{kind}": (width,) for name in names for kind in ("weight", "bias")}


def _layers(stem: str, names: Mapping[str, str], config: ViTConfig) -> dict[str, Shape]:
    width, inner = config.width, config.inner
    shapes: dict[str, Shape] = {}
    for layer in range(config.layers):
        for part in _LINEARS:
            outputs, inputs = {"fc1": (inner, width), "fc2": (width, inner)}.get(part, (width, width))
            shapes[f"{stem}{layer}.{names[part]}.weight"] = (outputs, inputs)
            shapes[f"{stem}{layer}.{names[part]}.bias"] = (outputs,)
        shapes |= _norms((f"{stem}{layer}.{names['norm_1']}", f"{stem}{layer}.{names['norm_2']}"), width)
    return shapes


def _renamed(weights: Mapping[str, Tensor], theirs: str, ours: str) -> Weights:
    return {f"{ours}.{kind}": weights[f"{theirs}.{kind}"] for kind in ("weight", "bias")}


def _own_layers(weights: Mapping[str, Tensor], stem: str, names: Mapping[str, str], config: ViTConfig) -> Weights:
    own: Weights = {}
    for layer in range(config.layers):
        there, here = f"{stem}{layer}.", f"layers.{layer}."
        for part in ("out", "fc1", "fc2", "norm_1", "norm_2"):
            own |= _renamed(weights, f"{there}{names[part]}", f"{here}{part}")
        parts = [f"{there}{names[part]}" for part in ("q", "k", "v")]
        own[f"{here}qkv.weight"] = torch.cat([weights[f"{part}.weight"] for part in parts])
        none = weights[f"{parts[0]}.weight"].new_zeros(config.width)
        own[f"{here}qkv.bias"] = torch.cat([weights.get(f"{part}.bias", none) for part in parts])
    return own


def _vision(config: ViTConfig, own: Weights, image_spec: ImageSpec, where: str) -> Vision:
    if (image_spec.width, image_spec.height) != (config.image, config.image):
        raise InputError(
            f"{where}: the processor produces {image_spec.width}x{image_spec.height} pixels, the model takes "
            f"{config.image}x{config.image}"
        )
    with uninitialized():
        encoder = VisionTransformer(config)
    load_into(encoder, own, where)
    return Vision(encoder, image_spec, config.projection or config.width).eval()
