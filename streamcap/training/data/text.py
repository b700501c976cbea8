"""Captions as the scores and the small vocabulary see them, and the tokenizer made from them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

STOP = "<|endoftext|>"
"""The stop token of a tokenizer made here; its id is 0."""
_CUT = re.compile(r"[^\w\s']|_")
_GLUE = re.compile(r"\s*'\s*(?=s\b)")


def normalize(caption: str) -> str:
    """Lower case, without punctuation, words set apart by single blanks; `man 's` and `man's` come out alike."""
    text = _GLUE.sub(" '", _CUT.sub(" ", caption.lower()))
    words = (word if word == "'s" else word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)


def make_tokenizer(captions: Iterable[str], size: int) -> Tokenizer:
    """Byte-level BPE of `size` tokens; a caption's first word is encoded as if a blank stood before it, so that a word
    has one token wherever it stands."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=[STOP], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer
