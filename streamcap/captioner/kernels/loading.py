"""Finds and loads the C kernels: those that the wheel brings, else ones compiled here.

A wheel has a library for each precision and instruction set (`build.LEVELS`), and the best that this processor runs is
taken. Where there is none (an editable install, another kind of processor), the kernels are compiled when they are
first needed, once for each precision, processor and compiler, and kept in the cache directory. Without either, models
run on torch alone.

STREAMCAP_KERNELS: `auto` is as above, `compile` ignores the ready-built ones, `off` runs on torch alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from streamcap.captioner.kernels import build
from streamcap.captioner.registry import cache_directory
from streamcap.errors import InputError

log = logging.getLogger(__name__)

MAX_CACHED = 8
"""Compiled libraries kept in the cache; older ones are deleted."""
_MODES = ("auto", "compile", "off")
_TIMEOUT_S = 10.0
_OPENMP = re.compile(r"/lib(?:gomp|iomp5|omp)[^/]*\.so[^/]*$")


class KernelSource(NamedTuple):
    """Where the kernels of one precision come from."""

    description: str
    """`ready-built (avx2)`, `compiled on this machine`."""
    ready_built: Path | None = None
    """The library; None: it is compiled."""


@cache
def load_library(precision: str) -> ctypes.CDLL | None:
    """The kernels for `int8` or `fp32`; None, with the reason in the log, if they are unavailable.

    Raises InputError for an unknown STREAMCAP_KERNELS.
    """
    for source in _sources(precision):
        try:
            path = source.ready_built or _compiled(precision)
            expose_openmp()
            library = ctypes.CDLL(str(path))
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("%s kernels, %s, cannot be used: %s", precision, source.description, build.reason(error))
            continue
        log.info("%s kernels: %s", precision, source.description)
        return library
    log.info("%s kernels: %s; models run on torch's matmul, which is slower", precision, describe_kernels(precision))
    return None


def has_kernels(precision: str) -> bool:
    """Whether there are kernels to load or a compiler. Raises as `load_library`."""
    return next(_sources(precision), None) is not None


def describe_kernels(precision: str) -> str:
    """Which kernels models run on, in a few words, without loading or compiling them. Raises as `load_library`."""
    source = next(_sources(precision), None)
    if source is not None:
        return source.description
    if _mode() == "off":
        return "none (STREAMCAP_KERNELS=off)"
    if not _is_supported():
        return f"none (not for {platform.system()} on {platform.machine()})"
    return "none (no C compiler)"


def expose_openmp() -> None:
    """Let the kernels find the OpenMP runtime that torch has loaded, so that the process has one pool of threads.

    Raises OSError if there is none.
    """
    import torch

    own = str(Path(torch.__file__).parent)
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    runtimes = [path for path in mapped if _OPENMP.search(path)]
    name = min(runtimes, key=lambda path: (not path.startswith(own), path), default="libgomp.so.1")
    ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _sources(precision: str) -> Iterator[KernelSource]:
    """What there is for this processor, the best first."""
    mode = _mode()
    if mode == "off" or not _is_supported():
        return
    if mode == "auto":
        features = _features()
        for level in build.LEVELS[platform.machine()]:
            path = build.READY_BUILT / build.library_name(precision, level)
            if features.issuperset(level.features) and path.is_file():
                yield KernelSource(f"ready-built ({level.name})", path)
    if _compiler() is not None:
        yield KernelSource("compiled on this machine")


def _mode() -> str:
    mode = os.environ.get("STREAMCAP_KERNELS") or "auto"
    if mode not in _MODES:
        raise InputError(f"STREAMCAP_KERNELS={mode}: it is {', '.join(_MODES[:-1])} or {_MODES[-1]}")
    return mode


def _is_supported() -> bool:
    return sys.platform == "linux" and platform.machine() in build.LEVELS


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC") or "cc")


def _features() -> set[str]:
    """The instruction sets that all cores have."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cores = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return set.intersection(*cores) if cores else set()


def _compiled(precision: str) -> Path:
    """The library in the cache, compiled if it is not there. Raises OSError or SubprocessError."""
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C compiler")
    directory = cache_directory() / "compiled"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = directory.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise OSError(f"{directory} is writable by other users")
    target = directory / f"{precision}-{_key(compiler, precision)}.so"
    if not target.is_file():
        build.build(compiler, target, precision, *build.NATIVE[platform.machine()])
        libraries = sorted(directory.glob("*.so"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in libraries[MAX_CACHED:]:
            old.unlink(missing_ok=True)
    return target


def _key(compiler: str, precision: str) -> str:
    """A hash of everything that changes the library: sources, flags, compiler version and processor."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    digest = hashlib.sha256()
    for file in (Path(build.__file__), *sorted(build.KERNELS.glob("*.[ch]"))):
        digest.update(file.read_bytes())
    digest.update("\n".join((precision, version.stdout, _processor())).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = ("flags", "model", "vendor_id", "stepping", "Features", "CPU part", "CPU variant", "CPU implementer")
    return "\n".join(sorted({line for line in lines if line.startswith(named)}))
