"""Compiles the CPU kernels into the wheel, for each instruction set.

Without a C compiler the wheel has their sources only. Editable installs
compile the kernels when they are first needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("streamcap", "captioner", "kernels")
_OLDEST_GLIBC = (2, 17)
"""The oldest that a manylinux tag exists for."""


class KernelsBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled kernels and the platform's tag to the wheel."""

    _directory: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        machine, compiler = platform.machine(), shutil.which(os.environ.get("CC") or "cc")
        build = _load(Path(self.root) / KERNELS / "build.py")
        if version == "editable" or sys.platform != "linux" or machine not in build.LEVELS:
            return
        if compiler is None:
            self.app.display_warning("no C compiler: the wheel is built without compiled kernels")
            return
        self._directory = tempfile.TemporaryDirectory(prefix="streamcap-kernels-")
        libraries = self._compile(build, compiler, Path(self._directory.name), machine)
        for library in libraries:
            target = KERNELS / build.READY_BUILT.name / library.name
            build_data["force_include"][str(library)] = str(target)
        if libraries:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag(libraries)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._directory is not None:
            self._directory.cleanup()

    def _compile(self, build: ModuleType, compiler: str, directory: Path, machine: str) -> list[Path]:
        def compile_one(level: Any, precision: str) -> Path | None:
            target = directory / build.library_name(precision, level)
            try:
                build.build(compiler, target, precision, *level.flags)
            except (OSError, subprocess.SubprocessError) as error:
                # An old compiler does not know every instruction set.
                self.app.display_warning(f"{target.name} does not compile: {build.reason(error)}")
                return None
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                pool.submit(compile_one, level, precision)
                for level in build.LEVELS[machine]
                for precision in level.precisions
            ]
            return [library for job in jobs if (library := job.result()) is not None]


def platform_tag(libraries: list[Path]) -> str:
    """The wheel's platform: manylinux with the newest glibc version that the libraries need, as PEP 600 defines it."""
    needed = [_OLDEST_GLIBC]
    for library in libraries:
        data = library.read_bytes()
        needed += [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)]
    if platform.libc_ver()[0] != "glibc":
        return f"linux_{platform.machine()}"
    major, minor = max(needed)
    return f"manylinux_{major}_{minor}_{platform.machine()}"


def _load(path: Path) -> ModuleType:
    """The module at `path`, without importing its package, whose dependencies a build does not have."""
    spec = spec_from_file_location("streamcap_kernels_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
