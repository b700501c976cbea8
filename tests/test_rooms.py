"""The layout is the architecture: a room imports without its neighbours' packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "tokenizers", "safetensors")
WEB = ("fastapi", "starlette", "uvicorn", "aiortc", "websockets")

PROBE = """
import importlib, pkgutil, sys
room, *forbidden = sys.argv[1:]

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ImportError(f"{room} must not import {name}")

sys.meta_path.insert(0, Wall())
package = importlib.import_module(room)
for module in pkgutil.walk_packages(getattr(package, "__path__", []), room + "."):
    importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("streamcap.captions", (*HEAVY, *WEB, "av", "numpy", "PIL")),
        ("streamcap.media", (*HEAVY, *WEB)),
        ("streamcap.streams", (*HEAVY, *WEB)),
        ("streamcap.engine", (*HEAVY, *WEB)),
        ("streamcap.server", HEAVY),
        ("streamcap.captioner", ("av", *WEB)),
        ("streamcap.training", WEB),
        ("streamcap.cli", (*HEAVY, *WEB, "av", "numpy")),
    ],
)
def test_package_imports_only_allowed_dependencies(room: str, forbidden: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, room, *forbidden], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_streamcap_is_light() -> None:
    code = "import sys, streamcap; print(*(m for m in ('torch', 'av', 'numpy', 'fastapi') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
