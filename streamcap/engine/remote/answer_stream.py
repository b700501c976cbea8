"""`AnswerStream`: the text of a streamed chat completion (server-sent events), as it arrives. Pure."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any

from streamcap.engine.remote.failure import RemoteError, hide_keys, message_of, one_line

MAX_BYTES = 2_000_000
MAX_TEXT = 100_000
"""Characters of one answer, reasoning included."""


@dataclass(slots=True)
class Usage:
    """Tokens as the server counts them; 0 if it does not tell."""

    tokens_in: int = 0
    tokens_out: int = 0


class AnswerStream:
    """Feed it the body of a response; `text` grows. Every method raises RemoteError for what is no answer.

    Accepts LF, CR LF and CR, comments, events of several lines, unknown fields, a missing `[DONE]`, and content as
    text or as a list of parts. Reasoning in a field of its own is not part of the text.

    Parameters:
        key: hidden if the server quotes it in an error.
    """

    def __init__(self, key: str | None = None) -> None:
        self.text = ""
        self.usage = Usage()
        self.finished = False
        """Whether the server said that the answer is complete."""
        self.is_done = False
        """Whether nothing follows any more."""
        self._key = key
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._data: list[str] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes. Returns whether `text` has grown."""
        self._bytes += len(chunk)
        if self._bytes > MAX_BYTES:
            raise RemoteError(f"the answer is larger than {MAX_BYTES // 1_000_000} MB")
        before = len(self.text)
        self._rest += self._decoder.decode(chunk)
        # A CR at the end may be the first half of CR LF.
        held = "\r" if self._rest.endswith("\r") else ""
        lines = self._rest.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + held
        for line in lines:
            self._line(line)
        return len(self.text) > before

    def end(self) -> None:
        """The body has ended."""
        self._line(self._rest.strip("\r"))
        self._line("")
        if not self.finished:
            raise RemoteError("the answer broke off before its end")

    def _line(self, line: str) -> None:
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        elif not line and self._data:
            data, self._data = "\n".join(self._data), []
            self._event(data)
        elif line.startswith("{"):  # some servers send an error as a bare JSON line
            self._event(line)

    def _event(self, data: str) -> None:
        if data.strip() == "[DONE]":
            self.finished = self.is_done = True
        elif data.strip():
            self.take(data)

    def take(self, data: str) -> None:
        """One JSON object: a chunk of a stream, or a whole answer."""
        try:
            message = json.loads(data)
        except ValueError:
            raise RemoteError("the answer is not JSON") from None
        if not isinstance(message, dict):
            raise RemoteError("the answer is not a chat completion")
        if message.get("error") or message.get("object") == "error":
            raise RemoteError(hide_keys(f"the server says: {one_line(message_of(message))}", self._key))
        self._count(message.get("usage"))
        choices = message.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        part = choice.get("delta") or choice.get("message") or {}
        self.text += _text_of(part.get("content") if isinstance(part, dict) else None)
        if len(self.text) > MAX_TEXT:
            raise RemoteError(f"the answer is longer than {MAX_TEXT} characters")
        self.finished = self.finished or bool(choice.get("finish_reason"))

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        for field, name in (("tokens_in", "prompt_tokens"), ("tokens_out", "completion_tokens")):
            if isinstance(count := usage.get(name), int) and 0 <= count < 10**9:
                setattr(self.usage, field, count)  # each count replaces the one before: they are running totals


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of(part.get("text")) for part in content if isinstance(part, dict))
    return ""
