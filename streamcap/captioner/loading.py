"""The vision tower and the tokenizer that a checkpoint lacks: found by name, and checked to belong to it."""

from __future__ import annotations

import logging
from pathlib import Path

from streamcap.captioner import registry
from streamcap.captioner.checkpoints import Checkpoint
from streamcap.captioner.checkpoints.towers import clip_directory
from streamcap.captioner.decoding.tokenizer import TextDecoder, load_tokenizer
from streamcap.captioner.models.vision import Vision, fingerprint
from streamcap.errors import InputError

log = logging.getLogger(__name__)


def find_tower(checkpoint: Checkpoint, name: str | Path | None) -> Vision:
    """The vision tower called `name`; None: the one that the checkpoint was trained with.

    Raises InputError where there is none at hand, or it does not fit the checkpoint.
    """
    need = checkpoint.vision_ref
    if need is None:
        raise InputError(f"{checkpoint.path}: has a vision encoder of its own; vision= does not apply")
    wanted = need.name if name is None else str(name)
    if wanted is None:
        raise InputError(f"{checkpoint.path}: {need.reason or 'no vision tower is known for it'}")
    tower = clip_directory(registry.find_vision(wanted), need.output)
    if need.fingerprint is not None and fingerprint(tower) != need.fingerprint:
        other = f"{checkpoint.path}: was taught with other weights than {wanted} has"
        if name is None:
            raise InputError(f"{other}; its captions would mean little. Name the right encoder with vision=")
        log.warning("%s; its captions may mean little", other)
    width = checkpoint.embedding.width
    if tower.width != width:
        raise InputError(f"vision gives embeddings {tower.width} wide, this checkpoint takes {width}")
    return tower


def find_tokenizer(checkpoint: Checkpoint, name: str | Path | None) -> TextDecoder:
    """The tokenizer called `name`; None: the checkpoint's own, or GPT-2's. Raises InputError where none fits."""
    size = checkpoint.gpt2.config.vocab_size
    named = name or checkpoint.own_tokenizer
    if named is not None:
        found = load_tokenizer(registry.find_tokenizer(str(named)))
    elif checkpoint.tokenizer is not None:
        found = load_tokenizer(checkpoint.tokenizer)
    else:
        if size != registry.GPT2_VOCABULARY:
            raise InputError(f"no tokenizer is known for a vocabulary of {size}; name one with tokenizer=")
        found = load_tokenizer(registry.find_tokenizer(checkpoint.tokenizer_name))
    if found.size > size:
        raise InputError(f"the tokenizer has {found.size} tokens, GPT-2 {size}: not of one model")
    return found
