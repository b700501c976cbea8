"""`LogFilter`: what of the HTTP server's log lines may be printed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from streamcap.redact import redact

# Between two equal warnings of the HTTP server.
QUIET_SECONDS = 60.0
MAX_LINE_CHARACTERS = 500
# Parameters whose values are printed; all others may hold a secret, under whatever spelling of its name.
_PRINTED = frozenset({"stream", "since", "interim", "min_interval", "mpegts"})
_QUERY = re.compile(r"\?([^\s\"']*)")
_ESCAPED = re.compile(r"\S*[%+]\S*")


class LogFilter(logging.Filter):
    """Keeps `tokens`, and every query value that is not known to be harmless, out of uvicorn's lines.

    A warning that comes again within QUIET_SECONDS is not printed: who connects a thousand times a second and speaks
    no HTTP must not fill the disk.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        super().__init__()
        self._tokens = sorted(tokens, key=len, reverse=True)
        self._last: tuple[str, float] = ("", 0.0)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        text, at = self._last
        if record.levelno >= logging.WARNING and record.exc_info is None:
            if message == text and record.created - at < QUIET_SECONDS:
                return False
            self._last = (message, record.created)
        record.msg, record.args = self.masked(message), None
        return True

    def masked(self, message: str) -> str:
        """`message` as it may be printed."""
        for token in self._tokens:
            message = message.replace(token, "***")
        message = _ESCAPED.sub(self._escaped, message)
        message = _QUERY.sub(lambda query: "?" + "&".join(map(_parameter, query[1].split("&"))), message)
        return redact(message[:MAX_LINE_CHARACTERS])

    def _escaped(self, word: re.Match[str]) -> str:
        plain = unquote_plus(word[0])
        return "***" if any(token in plain for token in self._tokens) else word[0]


def _parameter(text: str) -> str:
    name, equals, _ = text.partition("=")
    return text if equals and name in _PRINTED else "***"
