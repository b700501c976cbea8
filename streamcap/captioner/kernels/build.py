"""Compiles the C kernels in this directory, for this processor or for an instruction set (`LEVELS`).

Imports the standard library alone: `hatch_build.py` loads this file by its path while a wheel is built.

The libraries are linked without an OpenMP runtime, because torch brings one: see `loading.expose_openmp`.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

KERNELS = Path(__file__).parent
READY_BUILT = KERNELS / "ready_built"
"""Where an installed wheel has its libraries; a checkout has none."""
SOURCES = {"int8": ("layers.c",), "fp32": ("layers.c", "convolution.c")}
OPTIONS = {"int8": (), "fp32": ("-DFLOATS",)}
# Not -ffast-math: linking with it changes how the whole process handles denormal numbers.
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only", "-fno-signed-zeros",
         "-fassociative-math", "-freciprocal-math", "-fopenmp", "-fPIC")  # fmt: skip
_TIMEOUT_S = 600.0  # a busy machine may need minutes


class Level(NamedTuple):
    """An instruction set that ready-built kernels are compiled for."""

    name: str
    features: tuple[str, ...]
    """What the processor must have, as /proc/cpuinfo names it."""
    flags: tuple[str, ...]
    """Compiler flags."""
    precisions: tuple[str, ...] = ("int8", "fp32")


_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
_AVX512_FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
LEVELS = {
    "x86_64": (
        Level("avx512_vnni", (*_AVX512_FEATURES, "avx512_vnni"), (*_AVX512, "-mavx512vnni"), ("int8",)),
        Level("avx512", _AVX512_FEATURES, _AVX512),
        Level("avx_vnni", ("avx2", "fma", "avx_vnni"), (*_AVX2, "-mavxvnni"), ("int8",)),
        Level("avx2", ("avx2", "fma"), _AVX2),
        Level("baseline", ("sse4_1",), ("-msse4.1",)),
    ),
    "aarch64": (
        Level("dotprod", ("asimd", "asimddp"), ("-march=armv8.2-a+dotprod",), ("int8",)),
        Level("baseline", ("asimd",), ("-march=armv8-a",)),
    ),
}
"""By `platform.machine()`, the fastest first."""
NATIVE = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "aarch64": ("-mcpu=native",)}
"""Compiler flags for the processor that compiles."""


def library_name(precision: str, level: Level) -> str:
    """The file name of a ready-built library."""
    return f"{precision}-{level.name}.so"


def build(compiler: str, target: Path, precision: str, *flags: str) -> None:
    """Compile `int8` or `fp32` to `target`, written atomically. flags: instruction set, and more.

    Raises OSError or SubprocessError.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as directory:
        objects = []
        for source in SOURCES[precision]:
            objects.append(str(Path(directory) / f"{source}.o"))
            _run(compiler, *FLAGS, *OPTIONS[precision], *flags, "-c", str(KERNELS / source), "-o", objects[-1])
        library = Path(directory) / "library.so"
        # Without -fopenmp, which would link the compiler's own OpenMP runtime.
        _run(compiler, "-shared", "-s", *objects, "-o", str(library), "-lm")
        library.replace(target)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)


def reason(error: Exception) -> str:
    """The first error line of a failed `build`."""
    message = str(getattr(error, "stderr", None) or error)
    return next((line for line in message.splitlines() if "error" in line), message.partition("\n")[0])
