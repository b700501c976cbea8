"""Tokens to text, against `transformers`' own GPT-2 tokenizer on the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers
from transformers import GPT2Tokenizer

from streamcap.captioner.decoding.tokenizer import load_tokenizer
from streamcap.errors import InputError

TEXTS = ["A man opens a door.", "two dogs, one ball!", "naïve café – 猫", "don't  look"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpt2")
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "Ġd", "oo", "Ġdoo", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (directory / "merges.txt").write_text("#version: 0.2\nĠ a\nĠ d\no o\nĠd oo\n")
    return directory


def test_decoded_text_equals_transformers(files: Path) -> None:
    theirs, ours = GPT2Tokenizer.from_pretrained(files), load_tokenizer(files)
    assert ours.size == len(theirs) == 261
    end = theirs.eos_token_id
    for text in TEXTS:
        tokens = theirs.encode(text)
        assert ours.text(tokens) == theirs.decode(tokens).strip() == text
        assert ours.text([*tokens, end], frozenset({end})) == text
    dot = theirs.encode(".")[0]
    assert ours.text(theirs.encode("a door."), frozenset({dot})) == "a door."


def test_incomplete_character_is_hidden(files: Path) -> None:
    ours, theirs = load_tokenizer(files), GPT2Tokenizer.from_pretrained(files)
    tokens = theirs.encode("a 猫")
    assert ours.text(tokens[:-1]) == "a" and ours.text(tokens) == "a 猫"


def test_invalid_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        load_tokenizer(tmp_path)
