"""Caption normalization for scores and for new vocabularies, and the tokenizer trained on it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

STOP = "<|endoftext|>"
"""The stop token of `make_tokenizer`; its id is 0."""
_PUNCTUATION = re.compile(r"[^\w\s']|_")
_TATWEEL = "\u0640"
"""Stretches Arabic words; it is no letter."""
_ZERO_WIDTH_SPACE = "\u200b"
"""Separates words in Thai, Khmer and Burmese."""
_JOINERS = "\u200c\u200d"
"""Zero-width joiners inside words, of Persian and Indian scripts."""
# Scripts without spaces between words: Thai and Lao, Tibetan, Burmese, Khmer, Tai Tham, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
_POSSESSIVE = re.compile(r"\s*'\s*(?=s\b)")


def normalize(caption: str) -> str:
    """Lower case, no punctuation, words separated by single spaces; `man 's` and `man's` give the same result.

    Letters, marks and numbers of every script remain, composed (NFC).
    """
    lower = caption.lower()
    text = _POSSESSIVE.sub(" '", _PUNCTUATION.sub(" ", lower) if lower.isascii() else _without_punctuation(lower))
    words = (word if word == "'s" else word.strip("'" + _JOINERS) for word in text.split())
    return " ".join(word for word in words if word)


def split_words(caption: str) -> list[str]:
    """The words of `normalize(caption)`; in scripts without spaces, each character with its marks is a word."""
    words: list[str] = []
    for word in normalize(caption).split():
        start = 0
        for run in _UNSPACED_RUN.finditer(word):
            words += [word[start : run.start()], *_characters(run[0])]
            start = run.end()
        words.append(word[start:])
    return [word for word in words if word]


def is_unspaced(caption: str) -> bool:
    """Whether any part of `caption` is in a script without spaces between words."""
    return _UNSPACED_RUN.search(caption) is not None


def _without_punctuation(text: str) -> str:
    # The lower case of the Turkish dotted I is an i with a combining dot; remove the dot.
    text = unicodedata.normalize("NFC", text.replace("i\u0307", "i").replace("\u2019", "'"))
    kept: list[str] = []
    inside = False
    for character in text:
        category = unicodedata.category(character)
        # Direction marks and soft hyphens are invisible and separate nothing.
        is_invisible = category == "Cf" and character not in (*_JOINERS, _ZERO_WIDTH_SPACE)
        if is_invisible or character == _TATWEEL:
            continue
        # A mark stays with the letter before it; a variation selector is removed with its emoji.
        is_mark = category[0] == "M" and not "\ufe00" <= character <= "\ufe0f"
        inside = category[0] in "LN" or (inside and (is_mark or character in _JOINERS))
        kept.append(character if inside or character == "'" else " ")
    return "".join(kept)


def _characters(run: str) -> list[str]:
    """Split into characters, each with its combining marks."""
    characters: list[str] = []
    for character in run:
        if characters and unicodedata.category(character)[0] == "M":
            characters[-1] += character
        else:
            characters.append(character)
    return characters


def make_tokenizer(captions: Iterable[str], size: int) -> Tokenizer:
    """Train a byte-level BPE of `size` tokens. The first word is encoded as if after a space, so that a word has the
    same tokens at every position."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=[STOP], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer
