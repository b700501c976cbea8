"""`FailureLog`: logs repeated failures without filling the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
# Further kinds are counted as one.
MAX_KINDS = 32


@dataclass(slots=True)
class _Kind:
    next_at: float
    count: int = 0


class FailureLog:
    """Logs the first failure of a kind with its traceback, then a count at most once in INTERVAL_SECONDS.

    Failures of one kind have the same exception type and the same line of code. For one thread.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, str, int], _Kind] = {}

    def report(self, error: BaseException, where: str) -> None:
        """Count or log `error`; `where` names the stream."""
        now, key = self._monotonic(), _key(error)
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = ("", "", 0)
        kind = self._kinds.get(key)
        if kind is None:
            self._kinds[key] = _Kind(now + INTERVAL_SECONDS)
            log.error("the model failed on a frame of %s", where, exc_info=error)
            return
        kind.count += 1
        if now >= kind.next_at:
            log.error("the model failed %d more times, last on a frame of %s: %s", kind.count, where, describe(error))
            kind.count, kind.next_at = 0, now + INTERVAL_SECONDS


def describe(error: BaseException) -> str:
    """The error on one line."""
    return (f"{type(error).__name__}: {error}".splitlines() or [""])[0]


def _key(error: BaseException) -> tuple[str, str, int]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename if trace else ""
    return type(error).__qualname__, file, trace.tb_lineno if trace else 0
