"""What every room's tests share."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a property.
settings.register_profile("streamcap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("streamcap")

# Read by the hub library when it is imported: no test may ever ask a hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"


def require_program(name: str, why: str = "") -> str:
    """The path of program `name`; without it the test skips, or fails where nothing may be missing."""
    path = shutil.which(name)
    if path is None:
        _missing(f"needs the program {name}{f' ({why})' if why else ''}")
    return path


def require_package(*names: str) -> None:
    """The Python packages `names`; without one the test skips, or fails where nothing may be missing."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        _missing(f"needs the Python package {', '.join(absent)}")


@functools.cache
def _has_gstreamer() -> bool:
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        return subprocess.run(["/usr/bin/python3", "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def require_gstreamer() -> None:
    """GStreamer's RTSP server, with its Python bindings under the system's Python."""
    if not _has_gstreamer():
        _missing("needs GStreamer's RTSP server and its bindings for /usr/bin/python3 (see .ci/run for the packages)")


def _missing(message: str) -> NoReturn:
    if os.environ.get("STREAMCAP_NO_SKIP"):
        pytest.fail(message)
    pytest.skip(message)
