"""ClipCap (rmokady/CLIP_prefix_caption): `gpt.*` and `clip_project.*`, one embedding per image.

The mapping is an MLP, a single linear layer (`prefix_length` over 10) or a transformer. NYU's video checkpoints have
the same layout; their mapping gives one position for each frame (see `nyu`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from streamcap.atomic import read_json
from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape, VisionTowerRef
from streamcap.captioner.checkpoints.decoder import check_stop, load_gpt2
from streamcap.captioner.checkpoints.families import native
from streamcap.captioner.checkpoints.settings import CheckpointSettings, EncoderRef
from streamcap.captioner.checkpoints.tensors import Weights, layer_count, load_into, matrix, strip_prefix
from streamcap.captioner.models.mapping import LinearMapping, MLPMapping, TransformerMapping
from streamcap.captioner.models.prompt import MappedPrefixPrompter
from streamcap.captioner.models.uninitialized import uninitialized
from streamcap.captioner.models.vit import Output
from streamcap.errors import InputError
from streamcap.local_path import find_local

STOP_TOKEN = 13
"""`.` in GPT-2's vocabulary."""
MAX_TOKENS = 67
MAPPER_HEADS = 8

_CLIP_BY_WIDTH = {512: "openai/clip-vit-base-patch32", 768: "openai/clip-vit-large-patch14"}
_RESNET_BY_WIDTH = {640: "RN50x4", 1024: "RN50"}


def matches(keys: frozenset[str]) -> bool:
    """Whether these are the keys of this layout."""
    return any(key.startswith("clip_project.") for key in keys)


def load(path: Path, weights: Weights, settings: CheckpointSettings) -> Checkpoint:
    """Raises InputError that names the file and the key, shape or setting at fault."""
    where = str(path)
    stray = [key for key in weights if not key.startswith(("gpt.", "clip_project."))]
    if stray:
        raise InputError(f"{where}: unexpected key {stray[0]}")
    gpt2 = load_gpt2(strip_prefix(weights, "gpt."), settings.gpt2, where, prefix="gpt.")
    mapping, width = mapping_of(strip_prefix(weights, "clip_project."), gpt2.config.n_embd, settings, where)
    stop = STOP_TOKEN if settings.stop_token_id is None else settings.stop_token_id
    return Checkpoint(
        family="clipcap",
        path=path,
        gpt2=gpt2,
        prompter=MappedPrefixPrompter(mapping),
        embedding=EmbeddingShape(width),
        stop_tokens=check_stop(stop, gpt2, where),
        stop_rule="period" if settings.stop_token_id is None else "fixed",
        max_tokens=settings.max_tokens or MAX_TOKENS,
        vision_ref=vision_from_settings(settings.encoder) or projected_tower(width),
    )


def vision_from_settings(encoder: EncoderRef | None) -> VisionTowerRef | None:
    """The tower named in the json beside the checkpoint; None if it names none."""
    if encoder is None:
        return None
    config = find_local(f"{encoder.name}/config.json")
    ours = encoder.name == "mini" or (config is not None and native.matches(read_json(config)))
    if ours or encoder.feature_kind not in ("projected", "pooled"):
        reason = (
            f"it was trained on features of {encoder.name} ({encoder.feature_kind}), for which there is no vision "
            "tower; only caption_embeddings works"
        )
        return VisionTowerRef("pooled", None, reason)
    output: Output = "pooled" if encoder.feature_kind == "pooled" else "projected"
    return VisionTowerRef(output, encoder.name, fingerprint=encoder.fingerprint)


def projected_tower(width: int) -> VisionTowerRef:
    """The CLIP tower whose image embedding is `width` wide."""
    if width in _RESNET_BY_WIDTH:
        reason = (
            f"its embeddings are {width} wide, like those of CLIP's ResNet {_RESNET_BY_WIDTH[width]}, "
            "which is not supported; only caption_embeddings works"
        )
        return VisionTowerRef("projected", None, reason)
    name = _CLIP_BY_WIDTH.get(width)
    reason = "" if name else f"no known vision tower has embeddings {width} wide; name one with vision="
    return VisionTowerRef("projected", name, reason)


def mapping_of(
    weights: Mapping[str, Tensor], embed: int, settings: CheckpointSettings, where: str
) -> tuple[nn.Module, int]:
    """The mapping, and the width of its embeddings. weights: with keys without `clip_project.`."""
    module: nn.Module
    with uninitialized():
        if "prefix_const" in weights:
            module, width = (
                transformer_of(weights, embed, settings, where),
                matrix(weights, "linear.weight", where, prefix="clip_project.")[1],
            )
        elif "model.0.weight" in weights:
            outputs, hidden = matrix(weights, "model.2.weight", where, prefix="clip_project.")
            width = matrix(weights, "model.0.weight", where, prefix="clip_project.")[1]
            module = MLPMapping(width, hidden, _positions(outputs, embed, where, "model.2.weight") * embed, embed)
        elif "weight" in weights:
            outputs, width = matrix(weights, "weight", where, prefix="clip_project.")
            module = LinearMapping(width, _positions(outputs, embed, where, "weight") * embed, embed)
        else:
            raise InputError(f"{where}: clip_project.* is not a known mapping (MLP, linear, transformer)")
    load_into(module, weights, where, prefix="clip_project.")
    return module, width


def transformer_of(
    weights: Mapping[str, Tensor], embed: int, settings: CheckpointSettings, where: str
) -> TransformerMapping:
    """A transformer mapping with the sizes of the weights, not yet loaded."""
    prefix, inner = matrix(weights, "prefix_const", where, prefix="clip_project.")
    if inner != embed:
        raise InputError(
            f"{where}: GPT-2 is {embed} wide, the mapping's output {inner} (clip_project.prefix_const): "
            "they are from different models"
        )
    outputs, width = matrix(weights, "linear.weight", where, prefix="clip_project.")
    _positions(outputs, embed, where, "linear.weight")
    hidden, _ = matrix(weights, "transformer.layers.0.mlp.fc1.weight", where, prefix="clip_project.")
    heads = settings.mapper_heads or MAPPER_HEADS
    if embed % heads:
        raise InputError(f"{settings.where}: mapper_heads {heads} does not divide the mapping's width {embed}")
    layers = layer_count(weights, r"transformer\.layers\.(\d+)\.")
    return TransformerMapping(width, outputs, embed, prefix, heads, hidden, layers, cross=settings.cross)


def _positions(outputs: int, embed: int, where: str, key: str) -> int:
    if outputs % embed or not outputs:
        raise InputError(
            f"{where}: the mapping's {outputs} outputs (clip_project.{key}) are not a multiple of GPT-2's width "
            f"{embed}: they are from different models"
        )
    return outputs // embed
