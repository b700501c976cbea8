"""Loads GPT-2: its configuration from the shapes of the weights and the json beside them, then the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from streamcap.captioner.checkpoints.settings import read_int
from streamcap.captioner.checkpoints.tensors import Weights, check_state_dict, layer_count, matrix
from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.gpt2_weights import expected_shapes, from_transformers, is_buffer
from streamcap.errors import InputError

HEAD_WIDTH = 64
"""Width of an attention head in every published GPT-2; the default without a configuration."""


def load_gpt2(weights: Mapping[str, Tensor], fields: Mapping[str, Any], where: str, *, prefix: str) -> GPT2:
    """The decoder, from weights with GPT2LMHeadModel's keys. prefix: a key prefix, for messages.

    fields: a GPT-2 configuration, possibly empty. Raises InputError that names the invalid key or field.
    """
    kept: Weights = {key: value for key, value in weights.items() if not is_buffer(key)}
    config = gpt2_config(kept, fields, where, prefix=prefix)
    check_state_dict(kept, expected_shapes(config), where, prefix=prefix, optional=["lm_head.weight"])
    return from_transformers(config, kept)


def gpt2_config(
    weights: Mapping[str, Tensor], fields: Mapping[str, Any], where: str, *, prefix: str = ""
) -> GPT2Config:
    """Sizes from the shapes; heads, activation, epsilon and special tokens from `fields`, else GPT-2's defaults.

    Raises InputError if `fields` contradicts a shape or needs a variant that is not supported.
    """
    vocabulary, width = matrix(weights, "transformer.wte.weight", where, prefix=prefix)
    positions, _ = matrix(weights, "transformer.wpe.weight", where, prefix=prefix)
    layers = layer_count(weights, r"transformer\.h\.(\d+)\.")
    if layers == 0:
        raise InputError(f"{where}: {prefix}transformer.h.0 is missing: GPT-2 without layers")
    _, inner = matrix(weights, "transformer.h.0.mlp.c_fc.weight", where, prefix=prefix)
    cross = 0
    if "transformer.h.0.crossattention.c_attn.weight" in weights:
        cross, _ = matrix(weights, "transformer.h.0.crossattention.c_attn.weight", where, prefix=prefix)
    sizes = {"vocab_size": vocabulary, "n_positions": positions, "n_embd": width, "n_layer": layers, "n_inner": inner}
    for name, size in sizes.items():
        configured = read_int(fields, name, where, minimum=1)
        if configured is not None and configured != size:
            raise InputError(f"{where}: the gpt2 configuration has {name} {configured}, the weights have {size}")
    for flag in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        if fields.get(flag):
            raise InputError(f"{where}: the gpt2 configuration sets {flag}, which is not supported")
    if fields.get("scale_attn_weights") is False:
        raise InputError(f"{where}: the gpt2 configuration sets scale_attn_weights false, which is not supported")
    heads = read_int(fields, "n_head", where, minimum=1)
    if heads is None:
        if width % HEAD_WIDTH:
            raise InputError(
                f"{where}: width {width} is not a multiple of {HEAD_WIDTH}; set GPT-2's number of heads "
                f"(gpt2.n_head in the json beside the file)"
            )
        heads = width // HEAD_WIDTH
    return GPT2Config(
        **sizes,
        n_head=heads,
        bos_token_id=_token(fields, "bos_token_id", vocabulary, where),
        eos_token_id=_token(fields, "eos_token_id", vocabulary, where),
        activation_function=str(fields.get("activation_function") or "gelu_new"),
        layer_norm_epsilon=float(fields.get("layer_norm_epsilon") or 1e-5),
        cross_width=cross,
    )


def _token(fields: Mapping[str, Any], name: str, vocabulary: int, where: str) -> int:
    token = read_int(fields, name, where, minimum=0)
    if token is None:
        return vocabulary - 1
    if token >= vocabulary:
        raise InputError(f"{where}: {name} {token} is not in the vocabulary of {vocabulary}")
    return token


def check_stop(token: int, gpt2: GPT2, where: str) -> frozenset[int]:
    """The stop token as a set. Raises InputError if it is not in the vocabulary."""
    if token >= gpt2.config.vocab_size:
        raise InputError(f"{where}: stop token {token} is not in the vocabulary of {gpt2.config.vocab_size}")
    return frozenset((token,))
