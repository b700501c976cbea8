"""The GPT-2 and tokenizer that a run starts from: a published model, or a new one with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from streamcap.captioner import registry
from streamcap.errors import InputError
from streamcap.training.data.text import make_tokenizer, normalize
from streamcap.training.options import TrainOptions

POSITIONS = 128
"""Positions of a new GPT-2: prefix and caption together."""
_KEPT = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "bos_token_id", "eos_token_id")


def start_from(options: TrainOptions, captions: Iterable[str]) -> tuple[GPT2LMHeadModel, Tokenizer]:
    """Load GPT-2 and its tokenizer, or make new ones with a vocabulary from `captions`.

    Raises InputError if they cannot be loaded.
    """
    if options.gpt2 == "fresh":
        tokenizer = make_tokenizer((normalize(caption) for caption in captions), options.vocabulary)
        config = fresh_config(options, tokenizer.get_vocab_size())
        return build_gpt2(config, options.dropout), tokenizer
    directory = registry.find_directory(options.gpt2, "GPT-2")
    try:
        gpt = GPT2LMHeadModel.from_pretrained(
            directory,
            attn_implementation="sdpa",
            embd_pdrop=options.dropout,
            attn_pdrop=options.dropout,
            resid_pdrop=options.dropout,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{options.gpt2}: not a loadable GPT-2 ({str(error).splitlines()[0]})") from None
    return gpt, _tokenizer(directory)


def fresh_config(options: TrainOptions, vocabulary: int) -> dict[str, Any]:
    """Configuration of a new GPT-2: heads are 64 wide; token 0 is both start and stop token."""
    if options.width % 64:
        raise InputError(f"width {options.width}: must be a multiple of 64, the width of a head")
    return {
        "vocab_size": vocabulary,
        "n_positions": max(POSITIONS, options.prefix + options.max_tokens),
        "n_embd": options.width,
        "n_layer": options.layers,
        "n_head": options.width // 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def build_gpt2(config: dict[str, Any], dropout: float = 0.0) -> GPT2LMHeadModel:
    """A GPT-2 with random weights from the fields of a `GPT2Config`; `dropout` on embeddings and residuals.

    Attention has no dropout: it would disable torch's fused kernel and make a CPU step 20 % slower.
    """
    fields = {**config, "embd_pdrop": dropout, "attn_pdrop": 0.0, "resid_pdrop": dropout, "use_cache": False}
    # Computes the same as GPT-2's `gelu_new`, in one operation instead of eight.
    fields["activation_function"] = "gelu_pytorch_tanh"
    # GPT2Config accepts this argument without declaring it.
    attention: dict[str, Any] = {"attn_implementation": "sdpa"}
    return GPT2LMHeadModel(GPT2Config(**fields, **attention))


def stored_config(gpt: GPT2LMHeadModel) -> dict[str, Any]:
    """The configuration fields that a checkpoint stores beside the weights."""
    return {name: getattr(gpt.config, name) for name in _KEPT}


def _tokenizer(directory: Path) -> Tokenizer:
    try:
        if (directory / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(directory).backend_tokenizer
        return tokenizer
    except Exception as error:  # noqa: BLE001 - tokenizers raises a bare Exception for a damaged file
        raise InputError(f"{directory}: not a loadable tokenizer ({str(error).splitlines()[0]})") from None
