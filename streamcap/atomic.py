"""Files that are replaced atomically: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from streamcap.errors import InputError, StreamcapError


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A file beside `path` to write to; when the block ends, it takes the place of `path`.

    An exception inside the block leaves `path` as it was, and nothing behind. sync: the content reaches the disk first.
    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        # Gone by now, unless something went wrong.
        with contextlib.suppress(OSError):
            partial.unlink()


def atomic_write(
    path: Path, content: str | bytes, *, sync: bool = False, error: type[StreamcapError] = InputError
) -> None:
    """Replace `path` by `content`; text is UTF-8 with `\\n`. Raises `error` where the disk refuses."""
    try:
        with replacing(path, sync=sync) as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
    except OSError as refused:
        raise error(f"{path}: cannot be written ({refused.strerror or refused}); nothing was overwritten") from None


def write_json(path: Path, content: object) -> None:
    """Replace `path` by `content` as JSON. Raises StreamcapError where the disk refuses."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    atomic_write(path, text, sync=True, error=StreamcapError)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError where it is missing, unreadable or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as json ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a json object is expected, not a {type(content).__name__}")
    return content


def make_directory(path: Path) -> None:
    """Raises InputError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: this directory cannot be made: {error.strerror}") from None
