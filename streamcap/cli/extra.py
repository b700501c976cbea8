"""`require_extra`: optional packages that some commands need."""

from __future__ import annotations

import importlib.util

from streamcap.errors import InputError
from streamcap.extras import install_command


def require_extra(extra: str, *packages: str) -> None:
    """Raises InputError with the install command of `extra` if one of `packages` is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not installed, but required; {install_command(extra)}")
