"""Imports between packages go downward only, and a package loads no library that it must not know."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "streamcap"
# Lowest first. A module belongs to the longest name here that begins its own. It may import from lower rows, and within
# its package from its own row.
LAYERS = (
    ("capture_clock", "errors", "extras", "redact"),
    ("image_spec", "atomic", "byte_size", "daemon_pool", "local_path"),
    ("captions", "media", "service.heap"),
    ("captions.formats", "media.files", "media.scenes"),
    ("media.sources",),
    ("captioner.options", "captioner.result", "captioner.preprocess", "captioner.reachability", "captioner.registry"),
    ("captioner.models",),
    ("captioner.decoding", "captioner.grounding.object_words", "captioner.grounding.short_sentence"),
    ("captioner.grounding",),
    ("captioner.kernels", "captioner.checkpoints"),
    ("captioner",),
    ("engine", "offline"),
    ("offline.remote_captioner",),
    ("streams.settings",),
    ("streams",),
    ("config",),
    ("cluster",),
    ("server.errors", "server.http.path_prefix", "server.ice", "server.metrics.exposition"),
    ("server.http.limits", "server.options", "server.readiness", "server.snapshots", "server.source_policy"),
    ("server.auth", "server.http.middleware", "server.http.log_filter"),
    ("server.feed", "server.webrtc"),
    ("server.metrics.models", "server.metrics.streams"),
    ("server.metrics.service", "server.http.server"),
    ("server.routes",),
    ("server",),
    ("training.options",),
    ("training.data",),
    ("training.evaluation",),
    ("training",),
    ("training.mini",),
    ("service.models",),
    ("service.changes",),
    ("bench", "service.app"),
    ("service.node", "service"),
    ("cli",),
    ("__main__",),
)
HEAVY = ("torch", "transformers", "tokenizers", "safetensors")
WEB = ("fastapi", "starlette", "uvicorn", "aiortc", "websockets")

PROBE = """
import importlib, pkgutil, sys
packages, forbidden = sys.argv[1].split(), sys.argv[2].split()

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ImportError(f"{package} must not import {name}")

sys.meta_path.insert(0, Wall())
for package in packages:
    imported = importlib.import_module(package)
    for module in pkgutil.walk_packages(imported.__path__, package + "."):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("packages", "forbidden"),
    [
        # Together what must not load the same: starting Python takes most of the time.
        ("streamcap.captions", (*HEAVY, *WEB, "av", "numpy", "PIL")),
        ("streamcap.media streamcap.streams streamcap.config streamcap.engine", (*HEAVY, *WEB)),
        pytest.param("streamcap.cluster streamcap.server", HEAVY, marks=pytest.mark.slow),
        pytest.param("streamcap.captioner", ("av", *WEB), marks=pytest.mark.slow),
        pytest.param("streamcap.training", WEB, marks=pytest.mark.slow),
        ("streamcap.cli", (*HEAVY, *WEB, "av", "numpy")),
    ],
)
def test_packages_import_only_allowed_dependencies(packages: str, forbidden: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, packages, " ".join(forbidden)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_streamcap_is_light() -> None:
    code = "import sys, streamcap; print(*(m for m in ('torch', 'av', 'numpy', 'fastapi') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_the_commands_is_light() -> None:
    heavy = "('asyncio', 'torch', 'av', 'numpy', 'fastapi', 'pydantic_core')"
    code = f"import sys, streamcap.cli; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_starting_the_service_imports_no_connections() -> None:
    """Those of WebRTC and remote models are imported when the first one is needed."""
    heavy = "('torch', 'aiortc', 'httpx', 'PIL')"
    code = f"import sys, streamcap.service.app; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def _modules() -> dict[str, Path]:
    """Dotted name below `streamcap` → file; the root package, which only names others lazily, is not among them."""
    names = {file: ".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for file, name in names.items() if name != "__init__"}


@functools.cache
def _import_graph() -> dict[str, list[tuple[str, int]]]:
    """Each module → the modules that it imports, each with its line."""
    modules = _modules()
    return {module: list(_imports(file, modules)) for module, file in modules.items()}


def _imports(file: Path, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules that `file` imports anywhere, in functions and under TYPE_CHECKING too, each with its line."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{file}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("streamcap."):
                found = name.removeprefix("streamcap.")
                while found and found not in modules:
                    found = found.rpartition(".")[0]
                if found:
                    yield found, node.lineno


def _layer(module: str) -> tuple[int, str]:
    """The row of `module`, and the package within which that row may import from itself."""
    rows = {name: row for row, names in enumerate(LAYERS) for name in names}
    prefix = module
    while prefix not in rows:
        assert prefix, f"{module} has no layer"
        prefix = prefix.rpartition(".")[0]
    is_package = (SOURCE / prefix.replace(".", "/")).is_dir()
    return rows[prefix], prefix if is_package else prefix.rpartition(".")[0]


def test_imports_go_downward_only() -> None:
    upward = []
    for module, imports in _import_graph().items():
        row, package = _layer(module)
        for imported, line in imports:
            imported_row, imported_package = _layer(imported)
            if imported_row > row or (imported_row == row and imported_package != package):
                upward.append(f"line {line} of {module}: must not import {imported}")
    assert not upward, "\n".join(upward)


def test_no_module_imports_itself_through_others() -> None:
    imports = {module: {imported for imported, _ in found} for module, found in _import_graph().items()}
    while leaves := {module for module, imported in imports.items() if not imported & imports.keys()}:
        imports = {module: imported for module, imported in imports.items() if module not in leaves}
    while unused := imports.keys() - set().union(*imports.values()):
        imports = {module: imported for module, imported in imports.items() if module not in unused}
    assert not imports


def test_every_layer_is_a_module() -> None:
    assert {name for names in LAYERS for name in names} <= set(_modules())


def test_a_frame_crosses_few_modules_and_none_twice() -> None:
    """From the source to the websocket, as docs/architecture.md counts them."""
    text = (SOURCE.parent / "docs" / "architecture.md").read_text()
    section = text.partition("## The way of one frame\n")[2].partition("\n## ")[0]
    walk = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \|", section, re.MULTILINE)
    assert all((SOURCE / module).is_file() for module in walk), walk
    assert (walk[0], walk[-1]) == ("media/sources/libav/source.py", "server/feed/websocket.py")
    assert len(walk) == len(set(walk)) <= 18
