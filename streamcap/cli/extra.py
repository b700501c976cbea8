"""Packages that some commands need and a plain installation has not got."""

from __future__ import annotations

import importlib.util

from streamcap.errors import InputError
from streamcap.extras import install_command


def require_extra(extra: str, *packages: str) -> None:
    """Raises InputError that says how to install `extra` where one of `packages` is not installed."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    if absent:
        raise InputError(f"{', '.join(absent)} not installed, which this needs; {install_command(extra)}")
