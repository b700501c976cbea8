"""`find_local`: a name that a user gave, as a path of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from streamcap.errors import InputError


def find_local(name: str) -> Path | None:
    """The file or directory `name`, with `~` expanded; None if there is none.

    Raises InputError if the system cannot tell: the name is too long, or a directory may not be searched.
    """
    if not name:
        return None
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - keeps `~nobody`, for which pathlib raises
    try:
        return path if path.exists() else None
    except OSError as error:
        raise InputError(f"{name[:80]}: {error.strerror}") from None
