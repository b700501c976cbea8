"""The one part of streamcap that is not Python: `layers.c`, compiled where it runs by the C compiler that is there.

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

from streamcap.captioner.names import cache_directory

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("layers.c")
# No -ffast-math as such: linking with it would change how all of the process rounds denormal numbers.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-mprefer-vector-width=512", "-fopenmp",
         "-fPIC", "-shared")  # fmt: skip
FLOATS = "-DFLOATS"
"""What makes it a library of float32 instead of int8."""
KEPT = 8
"""Libraries in the cache; older ones go."""
_SECONDS = 120.0


@cache
def library(precision: str) -> ctypes.CDLL | None:
    """The compiled `layers.c`, `int8` or `fp32`; None, with the reason in the log, where it is not to be had."""
    if os.environ.get("STREAMCAP_COMPILE", "1") == "0":
        return None
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        log.info("no C compiler is installed; models run on torch's products, which are slower")
        return None
    try:
        return ctypes.CDLL(str(_cached(compiler, [FLOATS] if precision == "fp32" else [])))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("layers.c was not compiled, models run on torch's products: %s", _reason(error))
        return None


def build(compiler: str, target: Path, *more: str) -> None:
    """Compile into `target`, which is whole or not there. Raises OSError or SubprocessError."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        command = [compiler, *FLAGS, *more, str(SOURCE), "-o", name, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _cached(compiler: str, more: list[str]) -> Path:
    directory = cache_directory() / "compiled"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = directory.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise OSError(f"{directory} can be written by others")
    target = directory / f"layers-{_key(compiler, more)}.so"
    if not target.is_file():
        build(compiler, target, *more)
        found = sorted(directory.glob("*.so"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in found[KEPT:]:
            old.unlink(missing_ok=True)
    return target


def _key(compiler: str, more: list[str]) -> str:
    """Of everything that makes a library another one: source, options, compiler and processor."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=_SECONDS)
    whole = hashlib.sha256(SOURCE.read_bytes())
    whole.update("\n".join((*FLAGS, *more, version.stdout, _processor())).encode())
    return whole.hexdigest()[:16]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model", "vendor_id", "stepping"))}))


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return next((line for line in str(said).splitlines() if "error" in line), str(said).partition("\n")[0])
