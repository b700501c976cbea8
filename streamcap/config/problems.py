"""`ConfigError`: what is wrong with a configuration file, one line for each problem."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamcap.errors import InputError
from streamcap.redact import redact

MAX_PROBLEMS = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a file. `line` counts from 1; None: the whole file."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.shown()}"

    def shown(self) -> str:
        """The message as one line, secrets redacted."""
        return redact(" ".join(self.message.split()))


class ConfigError(InputError):
    """The configuration cannot be used. `problems` has one entry for each line to print, by line number."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = sorted(problems, key=lambda problem: problem.line or 0)
        if len(found) > MAX_PROBLEMS:
            rest = len(found) - MAX_PROBLEMS
            found[MAX_PROBLEMS:] = [Problem(found[0].file, None, f"and {rest} more problems")]
        self.problems: Sequence[Problem] = found
        super().__init__("\n".join(map(str, found)))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for a near miss, else what is allowed."""
    known = sorted(known)
    near = difflib.get_close_matches(word.replace("-", "_").lower(), known, n=1, cutoff=0.7)
    if near:
        return f"did you mean {near[0]}?"
    return f"use {', '.join(known)}" if known else "none is allowed here"
