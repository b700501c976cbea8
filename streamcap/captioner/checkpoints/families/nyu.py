"""NYU's CLIPVideoCap (juexZZ/NYUFall22-CVProject-CLIPVideoCap): ClipCap's layout with an embedding for every frame.

The mapping is a transformer, a cross-attending transformer (same keys and shapes; `cross` in the json selects it) or an
MLP for each frame.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape
from streamcap.captioner.checkpoints.decoder import check_stop, load_gpt2
from streamcap.captioner.checkpoints.families.clipcap import (
    STOP_TOKEN,
    projected_tower,
    transformer_of,
    vision_from_settings,
)
from streamcap.captioner.checkpoints.settings import CheckpointSettings
from streamcap.captioner.checkpoints.tensors import Weights, load_into, matrix, strip_prefix
from streamcap.captioner.models.mapping import FrameMLPMapping
from streamcap.captioner.models.prompt import MappedPrefixPrompter
from streamcap.captioner.models.uninitialized import uninitialized
from streamcap.errors import InputError

CLIP_LENGTH = 28
MAX_TOKENS = 10


def matches(weights: Weights) -> bool:
    """Whether the mapping gives one position of GPT-2's width for each embedding."""
    wte = weights.get("gpt.transformer.wte.weight")
    last = weights.get("clip_project.linear.weight", weights.get("clip_project.model.2.weight"))
    return wte is not None and last is not None and wte.dim() == last.dim() == 2 and last.shape[0] == wte.shape[1]


def load(path: Path, weights: Weights, settings: CheckpointSettings) -> Checkpoint:
    """Raises InputError that names the file and the key, shape or setting at fault."""
    where = str(path)
    stray = [key for key in weights if not key.startswith(("gpt.", "clip_project."))]
    if stray:
        raise InputError(f"{where}: unexpected key {stray[0]}")
    gpt2 = load_gpt2(strip_prefix(weights, "gpt."), settings.gpt2, where, prefix="gpt.")
    embed = gpt2.config.n_embd
    mapping_weights = strip_prefix(weights, "clip_project.")
    mapping: nn.Module
    with uninitialized():
        if "prefix_const" in mapping_weights:
            mapping = transformer_of(mapping_weights, embed, settings, where)
            width = matrix(mapping_weights, "linear.weight", where, prefix="clip_project.")[1]
        else:
            hidden, width = matrix(mapping_weights, "model.0.weight", where, prefix="clip_project.")
            mapping = FrameMLPMapping(width, hidden, embed)
    load_into(mapping, mapping_weights, where, prefix="clip_project.")
    stop = STOP_TOKEN if settings.stop_token_id is None else settings.stop_token_id
    return Checkpoint(
        family="nyu-video",
        path=path,
        gpt2=gpt2,
        prompter=MappedPrefixPrompter(mapping),
        # The shapes do not determine the number of frames: it is fixed only if the json has it.
        embedding=EmbeddingShape(
            width, axes=(1, 2) if settings.clip_length is None else (2,), count=settings.clip_length
        ),
        stop_tokens=check_stop(stop, gpt2, where),
        stop_rule="period" if settings.stop_token_id is None else "fixed",
        max_tokens=settings.max_tokens or MAX_TOKENS,
        clip_length=settings.clip_length or CLIP_LENGTH,
        vision_ref=vision_from_settings(settings.encoder) or projected_tower(width),
    )
