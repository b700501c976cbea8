"""From tokens to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from streamcap.errors import InputError


class TextDecoder:
    """A tokenizer seen from its decoding side."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def text(self, tokens: Sequence[int], stop_tokens: frozenset[int] = frozenset()) -> str:
        """The text of `tokens`, without special tokens, without surrounding space.

        A stop token at the end that is no punctuation (an end-of-text marker) is left out; ClipCap's `.` stays. So is
        a character whose bytes have not all been generated yet.
        """
        kept = list(tokens)
        if kept and kept[-1] in stop_tokens and not self._is_word(kept[-1]):
            kept.pop()
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text.rstrip("\ufffd").strip()

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _is_word(self, token: int) -> bool:
        piece = self._tokenizer.id_to_token(token)
        return piece is not None and not (piece.startswith("<") and piece.endswith(">") and len(piece) > 2)


def load_tokenizer(path: Path) -> TextDecoder:
    """From tokenizer.json, or a directory that holds it or GPT-2's vocab.json and merges.txt. Raises InputError."""
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            return TextDecoder(Tokenizer.from_file(str(file)))
        vocabulary, merges = path / "vocab.json", path / "merges.txt"
        if vocabulary.is_file() and merges.is_file():
            return TextDecoder(_byte_level(vocabulary, merges))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for every damaged file
        raise InputError(f"{path}: not a tokenizer ({str(error).splitlines()[0]})") from None
    raise InputError(f"{path}: no tokenizer there (tokenizer.json, or vocab.json and merges.txt)")


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id("<|endoftext|>") is not None:
        tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer
