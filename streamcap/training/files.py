"""Small files of a cache or a run: written whole or not at all, and read with one clear line where they are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from streamcap.errors import InputError, StreamcapError


def write_json(path: Path, content: object) -> None:
    """Write whole or not at all. Raises StreamcapError where the disk does not take it."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write whole or not at all. Raises StreamcapError where the disk does not take it."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StreamcapError(
            f"{path}: cannot be written ({error.strerror or error}); nothing was overwritten"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A json object. Raises InputError for a file that is missing, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a json object is expected, not a {type(content).__name__}")
    return content
