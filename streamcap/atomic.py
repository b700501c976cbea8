"""Atomic file replacement: a reader sees the old content or the new, never a part. Also JSON files and directories."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from streamcap.errors import InputError, StreamcapError

_LINK = "a symbolic link, which is not followed here; move it away"
_IRREGULAR = "not a regular file; move it away"
_DEFAULT_MODE = 0o666
_DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_MAX_NAME_BYTES = 255
"""Of the usual file systems."""


def open_regular(path: str, flags: int, mode: int = 0o666) -> int:
    """Opener for `open`: a descriptor of a regular file that `path` itself names.

    Raises OSError for a symbolic link, which could lead out of the directory, and for a device or a pipe. Opening a
    pipe may block: see `check_regular`.
    """
    try:
        # Missing on Windows.
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(errno.ELOOP, _LINK, path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _IRREGULAR, path)
    return descriptor


def check_regular(path: Path) -> None:
    """Raises OSError, as `open_regular`, without opening; a missing file passes."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, _LINK, str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, _IRREGULAR, str(path))


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False, mode: int = _DEFAULT_MODE) -> Iterator[BinaryIO]:
    """Yield a temporary file beside `path`; when the block ends, it replaces `path`.

    After an exception inside the block, `path` is unchanged and the temporary file is removed. sync: fsync the content
    before it replaces `path`. mode: permissions of the new file, less the umask. Raises OSError.
    """
    partial = path.with_name(_partial_name(path.name))
    secret = mode != _DEFAULT_MODE
    if secret:
        # A file that is there already keeps its owner, its permissions and its readers.
        partial.unlink(missing_ok=True)
    try:
        with open(partial, "xb" if secret else "wb", opener=functools.partial(open_regular, mode=mode)) as stream:
            yield stream
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        # It exists only after an error.
        with contextlib.suppress(OSError):
            partial.unlink()


def atomic_write(
    path: Path,
    content: str | bytes,
    *,
    sync: bool = False,
    mode: int = _DEFAULT_MODE,
    error: type[StreamcapError] = InputError,
) -> None:
    """Replace `path` with `content`; text is written as UTF-8 with `\\n`.

    Raises `error` if the write fails, or StreamcapError if the disk is full or broken.
    """
    try:
        with replacing(path, sync=sync, mode=mode) as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
    except OSError as cause:
        # No wrong use: another path of the same disk would fail too.
        error = StreamcapError if cause.errno in _DISK_FAULTS else error
        raise error(f"{path}: cannot be written ({cause.strerror or cause}); nothing was overwritten") from None


def _partial_name(name: str) -> str:
    partial = f".{name}.partial"
    if len(os.fsencode(partial)) <= _MAX_NAME_BYTES:
        return partial
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.partial"


def json_text(content: object, *, indent: int) -> str:
    """`content` as JSON that is valid UTF-8: bytes of a file name that are not are written as `\\udcXX`."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def write_json(path: Path, content: object) -> None:
    """Replace `path` with `content` as JSON. Raises StreamcapError if the write fails."""
    atomic_write(path, json_text(content, indent=1), sync=True, error=StreamcapError)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises InputError if the file is missing, unreadable or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def make_directory(path: Path) -> None:
    """Create `path` and its parents. Raises InputError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: this directory cannot be made: {error.strerror}") from None
