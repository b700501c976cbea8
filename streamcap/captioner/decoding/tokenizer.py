"""`TextDecoder`: turns tokens into text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordPiece

from streamcap.errors import InputError

# Latin; Chinese and Japanese, also full and half width; Hindi, Khmer, Urdu, Amharic, Armenian, Burmese.
_PERIODS = (".", "\u3002", "\uff0e", "\uff61", "\u0964", "\u17d4", "\u06d4", "\u1362", "\u0589", "\u104b")
_EAST_ASIAN = "\u2e80-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
# BERT's tokenizer decodes each character as a word.
_SPACE_INSIDE = re.compile(f"(?<=[{_EAST_ASIAN}]) (?=[{_EAST_ASIAN}])")
_ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")
_WORD_MARKS = ("\u0120", "\u2581")
"""What byte-level and SentencePiece vocabularies write for the space before a word."""
_BEGINNINGS = ("<|endoftext|>", "<s>", "<bos>", "<|bos|>", "[BOS]", "[CLS]")


_SENTENCEPIECE = ("spiece.model", "spm.model", "tokenizer.model", "sentencepiece.bpe.model")


class TextDecoder:
    """The decoding side of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def text(self, tokens: Sequence[int], stop_tokens: frozenset[int] = frozenset()) -> str:
        """The text of `tokens`, without special tokens and surrounding whitespace.

        An end-of-text marker at the end is removed, even if it is no special token; ClipCap's stop token `.` stays. An
        incomplete character at the end, some of whose bytes are not generated yet, is removed as well.
        """
        kept = list(tokens)
        if kept and kept[-1] in stop_tokens and not self._is_word(kept[-1]):
            kept.pop()
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return _SPACE_INSIDE.sub("", text.rstrip("\ufffd").strip())

    def periods(self) -> frozenset[int]:
        """The tokens of a full stop; empty if there are none. GPT-2's vocabulary: 13."""
        encoded = (self._tokenizer.encode(mark, add_special_tokens=False).ids for mark in _PERIODS)
        candidates = {ids[0] for ids in encoded if len(ids) == 1}
        candidates |= {token for mark in _PERIODS if (token := self._tokenizer.token_to_id(mark)) is not None}
        return frozenset(token for token in candidates if self.text([token]) in _PERIODS)

    def ends(self) -> frozenset[int]:
        """The end-of-text tokens, found by their common names; empty if there are none."""
        return frozenset(token for name in _ENDS if (token := self._tokenizer.token_to_id(name)) is not None)

    def begin(self) -> int | None:
        """The begin-of-text token, found by its common names; None if there is none."""
        tokens = (self._tokenizer.token_to_id(name) for name in _BEGINNINGS)
        return next((token for token in tokens if token is not None), None)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def word_beginnings(self) -> frozenset[str]:
        """The texts of all tokens that begin a word, whole words among them."""
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        marked = tuple(piece for piece in pieces if piece[:1] in _WORD_MARKS and len(piece) > 1)
        begin = [piece[1:] for piece in marked] or [piece for piece in pieces if not piece.startswith("##")]
        return frozenset(begin)

    def continuations(self) -> frozenset[int]:
        """The tokens that can only continue a word; none where the first word of a text has no mark either."""
        first = self._tokenizer.encode("a", add_special_tokens=False).tokens
        if not first or first[0][:1] not in _WORD_MARKS:
            return frozenset()
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        return frozenset(number for piece, number in pieces.items() if piece[:1].isascii() and piece[:1].isalnum())

    def _is_word(self, token: int) -> bool:
        piece = self._tokenizer.id_to_token(token)
        return piece is not None and not (len(piece) > 2 and piece[0] + piece[-1] in ("<>", "[]"))


def load_tokenizer(path: Path) -> TextDecoder:
    """Load tokenizer.json, or a directory with it, with GPT-2's vocab.json and merges.txt, or with BERT's vocab.txt.

    Raises InputError.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.is_file():
            return TextDecoder(Tokenizer.from_file(str(file)))
        vocabulary, merges = path / "vocab.json", path / "merges.txt"
        if vocabulary.is_file() and merges.is_file():
            return TextDecoder(_byte_level(vocabulary, merges))
        if (path / "vocab.txt").is_file():
            return TextDecoder(_word_pieces(path / "vocab.txt"))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for every damaged file
        raise InputError(f"{path}: not a tokenizer ({str(error).splitlines()[0]})") from None
    lacks = "contains no tokenizer (tokenizer.json, vocab.json and merges.txt, or vocab.txt)"
    if any((path / name).is_file() for name in _SENTENCEPIECE):
        lacks = "its tokenizer is SentencePiece's; save it as tokenizer.json with transformers' AutoTokenizer"
    raise InputError(f"{path}: {lacks}")


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id("<|endoftext|>") is not None:
        tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def _word_pieces(vocabulary: Path) -> Tokenizer:
    """BERT's tokenizer, which Chinese GPT-2 models use."""
    tokenizer = Tokenizer(WordPiece.from_file(str(vocabulary), unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer.add_special_tokens([name for name in special if tokenizer.token_to_id(name) is not None])
    return tokenizer
