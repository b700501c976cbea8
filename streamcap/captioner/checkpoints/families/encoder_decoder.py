"""`VisionEncoderDecoderModel` with ViT and GPT-2 (nlpconnect/vit-gpt2-image-captioning).

A directory in transformers' format: config.json, weights, tokenizer, preprocessor_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamcap.atomic import read_json
from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape
from streamcap.captioner.checkpoints.decoder import check_stop, load_gpt2
from streamcap.captioner.checkpoints.settings import read_int
from streamcap.captioner.checkpoints.tensors import load_into, read_weights, strip_prefix
from streamcap.captioner.checkpoints.towers import processor_image_spec, vit, weights_file
from streamcap.captioner.models.prompt import StartTokenPrompter
from streamcap.errors import InputError

MAX_TOKENS = 20
"""transformers' default of `max_length`."""


def matches(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of a VisionEncoderDecoderModel."""
    return config.get("model_type") == "vision-encoder-decoder"


def load(directory: Path, config: Mapping[str, Any]) -> Checkpoint:
    """Raises InputError that names the file and the key, shape or setting at fault."""
    where = str(directory / "config.json")
    encoder, decoder = config.get("encoder"), config.get("decoder")
    if not isinstance(encoder, Mapping) or not isinstance(decoder, Mapping):
        raise InputError(f"{where}: encoder and decoder configurations are missing")
    for part, fields, kind in (("encoder", encoder, "vit"), ("decoder", decoder, "gpt2")):
        if fields.get("model_type", kind) != kind:
            raise InputError(f"{where}: {part} is {fields['model_type']!r}; only {kind} is supported")
    file = weights_file(directory)
    weights = read_weights(file)
    stray = [key for key in weights if not key.startswith(("encoder.", "decoder.", "enc_to_dec_proj."))]
    if stray:
        raise InputError(f"{file}: unexpected key {stray[0]}")
    gpt2 = load_gpt2(strip_prefix(weights, "decoder."), _own_fields(decoder), str(file), prefix="decoder.")
    if not gpt2.config.cross_width:
        raise InputError(f"{file}: decoder.transformer.h.0.crossattention.c_attn.weight is missing")
    vision = vit(
        strip_prefix(weights, "encoder."),
        encoder,
        str(file),
        prefix="encoder.",
        image_spec=processor_image_spec(directory),
    )
    projection = _projection(weights_section=strip_prefix(weights, "enc_to_dec_proj."), width=vision.width, file=file)
    state_width = vision.width if projection is None else projection.out_features
    if state_width != gpt2.config.cross_width:
        raise InputError(
            f"{file}: the encoder's states are {state_width} wide, the decoder's cross-attention takes "
            f"{gpt2.config.cross_width}: they are from different models"
        )
    generation = dict(config)
    if (directory / "generation_config.json").is_file():
        generation |= {
            key: value for key, value in read_json(directory / "generation_config.json").items() if value is not None
        }
    start = _token(generation, decoder, "decoder_start_token_id", gpt2.config.bos_token_id, where)
    stop = _token(generation, decoder, "eos_token_id", gpt2.config.eos_token_id, where)
    new = read_int(generation, "max_new_tokens", where, minimum=1)
    length = read_int(generation, "max_length", where, minimum=2) or read_int(decoder, "max_length", where, minimum=2)
    # max_length counts the start token.
    return Checkpoint(
        family="vision-encoder-decoder",
        path=directory,
        gpt2=gpt2,
        prompter=StartTokenPrompter(next(iter(check_stop(start, gpt2, where))), projection),
        embedding=EmbeddingShape(vision.width, axes=(2,)),
        stop_tokens=check_stop(stop, gpt2, where),
        max_tokens=new or ((length - 1) if length else MAX_TOKENS - 1),
        vision=vision,
        tokenizer=directory,
    )


def _own_fields(decoder: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's fields without null values; `n_inner` null means four times the width."""
    return {key: value for key, value in decoder.items() if value is not None}


def _projection(weights_section: Mapping[str, torch.Tensor], width: int, file: Path) -> nn.Linear | None:
    weight = weights_section.get("weight")
    if weight is None:
        return None
    linear = nn.Linear(width, weight.shape[0], device="meta")
    load_into(linear, weights_section, str(file), prefix="enc_to_dec_proj.")
    return linear


def _token(generation: Mapping[str, Any], decoder: Mapping[str, Any], name: str, default: int, where: str) -> int:
    for fields in (generation, decoder):
        value = fields.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if value is not None:
            return read_int({name: value}, name, where, minimum=0) or 0
    return default
