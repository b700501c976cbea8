"""VideoCaptionerWithClip (lachlanchen): `ie.*` is CLIP's vision model, `mp.*` the mapping, `td.*` GPT-2.

The vision model's `pooler_output` is mapped, not the projected embedding.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape, VisionTowerRef
from streamcap.captioner.checkpoints.decoder import check_stop, load_gpt2
from streamcap.captioner.checkpoints.families.clipcap import vision_from_settings
from streamcap.captioner.checkpoints.settings import CheckpointSettings
from streamcap.captioner.checkpoints.tensors import (
    Weights,
    check_state_dict,
    layer_count,
    load_into,
    matrix,
    strip_prefix,
)
from streamcap.captioner.checkpoints.towers import clip_tower
from streamcap.captioner.models.mapping import PooledMapping
from streamcap.captioner.models.prompt import TwoPassPrefixPrompter
from streamcap.captioner.models.uninitialized import uninitialized
from streamcap.errors import InputError

log = logging.getLogger(__name__)

MAX_TOKENS = 40
ENCODER_HEADS = 16

_TOWER_BY_WIDTH = {768: "openai/clip-vit-base-patch32", 1024: "openai/clip-vit-large-patch14"}


def matches(keys: frozenset[str]) -> bool:
    """Whether these are the keys of this layout."""
    return any(key.startswith("mp.") for key in keys) and any(key.startswith("td.") for key in keys)


def load(path: Path, weights: Weights, settings: CheckpointSettings) -> Checkpoint:
    """Raises InputError that names the file and the key, shape or setting at fault."""
    where = str(path)
    stray = [key for key in weights if not key.startswith(("ie.model.", "mp.", "td.model."))]
    if stray:
        raise InputError(f"{where}: unexpected key {stray[0]}")
    gpt2 = load_gpt2(strip_prefix(weights, "td.model."), settings.gpt2, where, prefix="td.model.")
    gpt2.token_position_weight = 2.0
    width = gpt2.config.n_embd
    mapping = _mapping(strip_prefix(weights, "mp."), width, settings, where)
    vision = None
    tower = strip_prefix(weights, "ie.model.")
    heads_known = "num_attention_heads" in settings.clip_vision or width % 64 == 0
    if tower and heads_known:
        vision = clip_tower(tower, settings.clip_vision, where, prefix="ie.model.", output="pooled")
        if vision.width != width:
            raise InputError(f"{where}: the vision model is {vision.width} wide, GPT-2 {width}: from different models")
    elif tower:
        log.warning("%s: its vision model's number of heads is unknown; only caption_embeddings works", where)
    stop = gpt2.config.eos_token_id if settings.stop_token_id is None else settings.stop_token_id
    has_token_ids = bool({"bos_token_id", "eos_token_id"} & set(settings.gpt2))
    name = _TOWER_BY_WIDTH.get(width)
    reason = "" if name else f"no vision tower is known whose pooled output is {width} wide; name one with vision="
    return Checkpoint(
        family="videocaptioner",
        path=path,
        gpt2=gpt2,
        prompter=TwoPassPrefixPrompter(mapping, gpt2.config.bos_token_id),
        embedding=EmbeddingShape(width),
        stop_tokens=check_stop(stop, gpt2, where),
        stop_rule="fixed" if settings.stop_token_id is not None or has_token_ids else "end",
        max_tokens=settings.max_tokens or settings.max_len or MAX_TOKENS,
        vision=vision,
        vision_ref=vision_from_settings(settings.encoder) or VisionTowerRef("pooled", name, reason),
        tokenizer_name="openai-community/gpt2-medium" if width == 1024 else "openai-community/gpt2",
    )


def _mapping(weights: Weights, width: int, settings: CheckpointSettings, where: str) -> PooledMapping:
    layers = layer_count(weights, r"transformer_encoder\.layers\.(\d+)\.")
    if layers == 0:
        raise InputError(f"{where}: mp.transformer_encoder.layers.0 is missing")
    heads = settings.n_heads or ENCODER_HEADS
    if settings.n_heads is not None and width % heads:
        raise InputError(f"{settings.where}: n_heads {heads} does not divide the mapping's width {width}")
    hidden, _ = matrix(weights, "transformer_encoder.layers.0.linear1.weight", where, prefix="mp.")
    outputs, _ = matrix(weights, "mapper.weight", where, prefix="mp.")
    if outputs % width or not outputs:
        raise InputError(f"{where}: mp.mapper.weight has {outputs} outputs, no multiple of GPT-2's width {width}")
    expected: dict[str, tuple[int, ...]] = {"mapper.weight": (outputs, width), "mapper.bias": (outputs,)}
    own: dict[str, Tensor] = {}
    for layer in range(layers):
        there = f"transformer_encoder.layers.{layer}."
        expected |= {
            f"{there}self_attn.in_proj_weight": (3 * width, width),
            f"{there}self_attn.in_proj_bias": (3 * width,),
            f"{there}self_attn.out_proj.weight": (width, width),
            f"{there}self_attn.out_proj.bias": (width,),
            f"{there}linear1.weight": (hidden, width),
            f"{there}linear1.bias": (hidden,),
            f"{there}linear2.weight": (width, hidden),
            f"{there}linear2.bias": (width,),
        } | {f"{there}{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    check_state_dict(weights, expected, where, prefix="mp.")
    for key, tensor in weights.items():
        name = key.removeprefix("transformer_encoder.").replace("self_attn.out_proj", "out")
        if "in_proj" in name:
            name = name.replace("self_attn.in_proj_", "value.")
            tensor = tensor[2 * width :]
        own[name] = tensor.contiguous()
    with uninitialized():
        mapping = PooledMapping(width, hidden, layers, outputs)
    load_into(mapping, own, where, prefix="mp.")
    return mapping
