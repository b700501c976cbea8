"""Compiles the C kernels in this directory on the target machine and loads them.

The library is compiled once for each precision, processor and compiler, and kept in the cache directory. Without a
compiler, without AVX2, on other systems than x86-64 Linux, or with STREAMCAP_COMPILE=0, models run on torch alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from streamcap.captioner.registry import cache_directory

log = logging.getLogger(__name__)

KERNELS = Path(__file__).parent
SOURCES = {"int8": ("layers.c",), "fp32": ("layers.c", "convolution.c")}
# Not -ffast-math: linking with it changes how the whole process handles denormal numbers.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-mprefer-vector-width=512", "-fopenmp",
         "-fPIC", "-shared")  # fmt: skip
OPTIONS = {"int8": (), "fp32": ("-DFLOATS",)}
MAX_CACHED = 8
"""Libraries kept in the cache; older ones are deleted."""
_TIMEOUT_S = 120.0


@cache
def load_library(precision: str) -> ctypes.CDLL | None:
    """The compiled kernels, `int8` or `fp32`; None, with the reason in the log, if they are unavailable."""
    if os.environ.get("STREAMCAP_COMPILE", "1") == "0":
        return None
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        log.info("no C compiler found; models run on torch's matmul, which is slower")
        return None
    try:
        return ctypes.CDLL(str(_cached(compiler, precision)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the kernels did not compile; models run on torch's matmul, which is slower: %s", _reason(error))
        return None


def build(compiler: str, target: Path, precision: str, *more: str) -> None:
    """Compile to `target`, written atomically. Raises OSError or SubprocessError."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        sources = [str(KERNELS / source) for source in SOURCES[precision]]
        command = [compiler, *FLAGS, *OPTIONS[precision], *more, *sources, "-o", name, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _cached(compiler: str, precision: str) -> Path:
    directory = cache_directory() / "compiled"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = directory.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise OSError(f"{directory} is writable by other users")
    target = directory / f"{precision}-{_key(compiler, precision)}.so"
    if not target.is_file():
        build(compiler, target, precision)
        libraries = sorted(directory.glob("*.so"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in libraries[MAX_CACHED:]:
            old.unlink(missing_ok=True)
    return target


def _key(compiler: str, precision: str) -> str:
    """A hash of everything that changes the library: sources, flags, compiler version and processor."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    digest = hashlib.sha256()
    for file in sorted(KERNELS.glob("*.[ch]")):
        digest.update(file.read_bytes())
    digest.update("\n".join((*FLAGS, *OPTIONS[precision], version.stdout, _processor())).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model", "vendor_id", "stepping"))}))


def _reason(error: Exception) -> str:
    message = str(getattr(error, "stderr", None) or error)
    return next((line for line in message.splitlines() if "error" in line), message.partition("\n")[0])
