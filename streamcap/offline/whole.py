"""Files that are there whole or not at all, and the directories they are in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from streamcap.errors import InputError


def make_directory(path: Path) -> None:
    """Raises InputError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: this directory cannot be made: {error.strerror}") from None


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write beside `path`, then move over it: a reader sees the old content or the new, never a part.

    Text is UTF-8 with `\\n`. Raises InputError where it cannot be written, and leaves nothing behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        # Gone by now, unless something went wrong.
        with contextlib.suppress(OSError):
            partial.unlink()
