"""The one part of streamcap that is not Python: `kernels/`, compiled where it runs by the C compiler that is there.

Compiled once for each precision, processor and compiler, and kept in the cache directory. Where there is no compiler,
no AVX2 or another system than Linux, or with STREAMCAP_COMPILE=0, callers do without.
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
# No -ffast-math as such: linking with it would change how all of the process rounds denormal numbers.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-mprefer-vector-width=512", "-fopenmp",
         "-fPIC", "-shared")  # fmt: skip
OPTIONS = {"int8": (), "fp32": ("-DFLOATS",)}
MAX_CACHED = 8
"""Libraries in the cache; older ones go."""
_SECONDS = 120.0


@cache
def load_library(precision: str) -> ctypes.CDLL | None:
    """The compiled kernels, `int8` or `fp32`; None, with the reason in the log, where it is not to be had."""
    if os.environ.get("STREAMCAP_COMPILE", "1") == "0":
        return None
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        log.info("no C compiler is installed; models run on torch's products, which are slower")
        return None
    try:
        return ctypes.CDLL(str(_cached(compiler, precision)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the kernels were not compiled, models run on torch's products: %s", _reason(error))
        return None


def build(compiler: str, target: Path, precision: str, *more: str) -> None:
    """Compile into `target`, which is whole or not there. Raises OSError or SubprocessError."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        sources = [str(KERNELS / source) for source in SOURCES[precision]]
        command = [compiler, *FLAGS, *OPTIONS[precision], *more, *sources, "-o", name, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _cached(compiler: str, precision: str) -> Path:
    directory = cache_directory() / "compiled"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = directory.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise OSError(f"{directory} can be written by others")
    target = directory / f"{precision}-{_key(compiler, precision)}.so"
    if not target.is_file():
        build(compiler, target, precision)
        found = sorted(directory.glob("*.so"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in found[MAX_CACHED:]:
            old.unlink(missing_ok=True)
    return target


def _key(compiler: str, precision: str) -> str:
    """Of everything that makes a library another one: source, options, compiler and processor."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=_SECONDS)
    digest = hashlib.sha256()
    for file in sorted(KERNELS.glob("*.[ch]")):
        digest.update(file.read_bytes())
    digest.update("\n".join((*FLAGS, *OPTIONS[precision], version.stdout, _processor())).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model", "vendor_id", "stepping"))}))


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return next((line for line in str(said).splitlines() if "error" in line), str(said).partition("\n")[0])
