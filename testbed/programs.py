"""What a test needs of the machine. Without it the test skips, or fails if STREAMCAP_NO_SKIP is set."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from typing import NoReturn

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
"""Has GObject, which no virtual environment has."""


def require_program(name: str, why: str = "") -> str:
    """The path of program `name`."""
    path = shutil.which(name)
    if path is None:
        _missing(f"needs the program {name}{f' ({why})' if why else ''}")
    return path


def require_package(*names: str) -> None:
    """Require the Python packages `names`."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        _missing(f"needs the Python package {', '.join(absent)}")


def require_gstreamer() -> None:
    """Require GStreamer's RTSP server and its bindings for the system's Python."""
    if not has_gstreamer():
        _missing(f"needs GStreamer's RTSP server and its bindings for {SYSTEM_PYTHON} (see .ci/run for the packages)")


@functools.cache
def has_gstreamer() -> bool:
    """Whether GStreamer's RTSP server and its bindings for the system's Python are installed."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        return subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _missing(message: str) -> NoReturn:
    if os.environ.get("STREAMCAP_NO_SKIP"):
        pytest.fail(message)
    pytest.skip(message)
