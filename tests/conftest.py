"""What every room's tests share."""

from __future__ import annotations

import os
import shutil

import pytest

# Read by the hub library when it is imported: no test may ever ask a hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"


def require_program(name: str, why: str = "") -> str:
    """The path of program `name`; without it the test skips, or fails where nothing may be missing."""
    path = shutil.which(name)
    if path is None:
        message = f"needs the program {name}{f' ({why})' if why else ''}"
        if os.environ.get("STREAMCAP_NO_SKIP"):
            pytest.fail(message)
        pytest.skip(message)
    return path
