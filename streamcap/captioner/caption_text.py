"""`CaptionText`: the tokenizer of a checkpoint, loaded when it is first needed."""

from __future__ import annotations

import logging
from pathlib import Path

from streamcap.captioner.checkpoints import Checkpoint
from streamcap.captioner.decoding.tokenizer import TextDecoder
from streamcap.captioner.missing_parts import resolve_stop_tokens, resolve_tokenizer
from streamcap.captioner.models.prompt import Prompter
from streamcap.errors import InputError

log = logging.getLogger(__name__)


class CaptionText:
    """Turns tokens into text, and knows the tokens that end a caption.

    Parameters:
        name: the tokenizer that the user named, a directory or hub name; None: the checkpoint's own, or GPT-2's.
        prompter: gets the tokenizer's first token, where the prompts of this family begin with it.
    """

    def __init__(self, checkpoint: Checkpoint, name: str | Path | None, prompter: Prompter) -> None:
        self._checkpoint = checkpoint
        self._name = name
        self._prompter = prompter
        self._tokenizer: TextDecoder | None = None
        self._is_missing = False
        self._stop_tokens: frozenset[int] | None = None

    def load(self) -> TextDecoder:
        """The tokenizer. Raises InputError if none is available."""
        if self._tokenizer is None:
            self._tokenizer = resolve_tokenizer(self._checkpoint, self._name)
        return self._tokenizer

    def text(self, tokens: list[int]) -> str:
        """The text of `tokens`; empty if no tokenizer is available. Raises InputError if the named one is not."""
        if self._is_missing:
            return ""
        try:
            tokenizer = self.load()
        except InputError as error:
            if self._name is not None:
                raise
            self._is_missing = True
            log.warning("captions have tokens but no text: %s", error)
            return ""
        return tokenizer.text(tokens, self.stop_tokens())

    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end a caption. Raises InputError, see `resolve_stop_tokens`."""
        if self._stop_tokens is None:
            self._stop_tokens = resolve_stop_tokens(self._checkpoint, self._name, self.load, self._prompter)
        return self._stop_tokens
