"""Finds what a checkpoint does not contain (vision tower, tokenizer, stop tokens), and checks that it fits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from streamcap.captioner import registry
from streamcap.captioner.checkpoints import Checkpoint
from streamcap.captioner.checkpoints.towers import clip_directory
from streamcap.captioner.decoding.tokenizer import TextDecoder, load_tokenizer
from streamcap.captioner.models.prompt import Prompter, TwoPassPrefixPrompter
from streamcap.captioner.models.vision import Vision, fingerprint
from streamcap.errors import InputError

log = logging.getLogger(__name__)


def resolve_tower(checkpoint: Checkpoint, name: str | Path | None) -> Vision:
    """The vision tower called `name`; None: the one that the checkpoint was trained with.

    Raises InputError if it is not available, or does not fit the checkpoint.
    """
    ref = checkpoint.vision_ref
    if ref is None:
        raise InputError(f"{checkpoint.path}: contains a vision encoder; vision= does not apply")
    tower_name = ref.name if name is None else str(name)
    if tower_name is None:
        raise InputError(f"{checkpoint.path}: {ref.reason or 'no vision tower is known for it'}")
    tower = clip_directory(registry.find_vision(tower_name), ref.output)
    if ref.fingerprint is not None and fingerprint(tower) != ref.fingerprint:
        mismatch = f"{checkpoint.path}: was trained with other weights than those of {tower_name}"
        if name is None:
            raise InputError(f"{mismatch}; its captions would be meaningless. Name the right encoder with vision=")
        log.warning("%s; its captions may be meaningless", mismatch)
    width = checkpoint.embedding.width
    if tower.width != width:
        raise InputError(f"the vision tower's embeddings are {tower.width} wide, this checkpoint takes {width}")
    return tower


def resolve_tokenizer(checkpoint: Checkpoint, name: str | Path | None) -> TextDecoder:
    """The tokenizer called `name`; None: the checkpoint's own, or GPT-2's. Raises InputError if none fits."""
    size = checkpoint.gpt2.config.vocab_size
    explicit = name or checkpoint.own_tokenizer
    if explicit is not None:
        tokenizer = load_tokenizer(registry.find_tokenizer(str(explicit)))
    elif checkpoint.tokenizer is not None:
        tokenizer = load_tokenizer(checkpoint.tokenizer)
    else:
        if size != registry.GPT2_VOCABULARY:
            raise InputError(f"no tokenizer is known for a vocabulary of {size}; name one with tokenizer=")
        tokenizer = load_tokenizer(registry.find_tokenizer(checkpoint.tokenizer_name))
    if tokenizer.size > size:
        raise InputError(f"the tokenizer has {tokenizer.size} tokens, GPT-2 has {size}: they are from different models")
    return tokenizer


def resolve_stop_tokens(
    checkpoint: Checkpoint, name: str | Path | None, load: Callable[[], TextDecoder], prompter: Prompter
) -> frozenset[int]:
    """The tokens that end a caption: those of the checkpoint, or those of its tokenizer if that is not OpenAI's.

    name: the tokenizer that the user named. load: loads the tokenizer. prompter: gets the tokenizer's first token,
    where the prompts of this family begin with it. Raises InputError if the tokenizer has no token that could end a
    caption, or cannot be loaded although the user named it.
    """
    if checkpoint.stop_rule == "fixed" or not (name or checkpoint.tokenizer or checkpoint.own_tokenizer):
        return checkpoint.stop_tokens
    try:
        tokenizer = load()
    except InputError:
        if name is not None:
            raise
        return checkpoint.stop_tokens
    periods, ends, begin = tokenizer.periods(), tokenizer.ends(), tokenizer.begin()
    if checkpoint.stop_rule == "period" and checkpoint.stop_tokens <= periods:
        # OpenAI's vocabulary: ClipCap stops only at this full stop.
        return checkpoint.stop_tokens
    if checkpoint.stop_rule == "end" and isinstance(prompter, TwoPassPrefixPrompter) and begin is not None:
        prompter.bos_token = begin
    stops = ends if checkpoint.stop_rule == "end" else periods | ends
    if not stops:
        raise InputError(
            f"{checkpoint.path}: the tokenizer has neither a full stop nor an end-of-text token with a common name; "
            "set stop_token_id in the json beside the file"
        )
    return stops
