"""`LogFilter`: removes secrets and repeated warnings from the HTTP server's log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from streamcap.redact import redact

# Minimum interval of two equal warnings.
REPEAT_SECONDS = 60.0
MAX_LINE_CHARACTERS = 500
# Query parameters whose values are logged; any other may contain a secret.
_PRINTED = frozenset({"stream", "since", "interim", "min_interval", "mpegts"})
_QUERY = re.compile(r"\?([^\s\"']*)")
_ESCAPED = re.compile(r"\S*[%+]\S*")


class LogFilter(logging.Filter):
    """Masks `tokens` and all query values that are not known to be harmless in uvicorn's log lines.

    A warning repeated within REPEAT_SECONDS is dropped, so that a client that sends invalid requests in a loop does
    not fill the disk.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        super().__init__()
        self._tokens = sorted(tokens, key=len, reverse=True)
        self._last: tuple[str, float] = ("", 0.0)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.exc_info is not None and isinstance(record.exc_info[1], UnicodeDecodeError):
            # uvicorn logs a client's invalid UTF-8 as an error of the service, with a traceback.
            record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        text, at = self._last
        if record.levelno >= logging.WARNING and record.exc_info is None:
            if message == text and record.created - at < REPEAT_SECONDS:
                return False
            self._last = (message, record.created)
        record.msg, record.args = self.masked(message), None
        return True

    def masked(self, message: str) -> str:
        """`message` with secrets masked, at most MAX_LINE_CHARACTERS long."""
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
