"""Describes the machine of a benchmark, and measures its memory bandwidth and kernel launch time."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from streamcap.bench.timing import synchronize
from streamcap.captioner.kernels.loading import describe_kernels
from streamcap.captioner.kernels.precision import PRECISIONS, has_int8

_PACKAGES = ("torch", "transformers", "numpy", "av", "onnxruntime", "openvino")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, available cores, threads, device and package versions; without the host's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "kernels": {name: describe_kernels(name) for name in ("fp32", "int8")},
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: installed for name in _PACKAGES if (installed := _version(name)) is not None},
    }


def usual_precisions(device: torch.device) -> list[str]:
    """The precisions measured by default; int8 only where there is int8."""
    unusual = {"bf16"} if has_int8() else {"bf16", "int8"}
    return [name for name in PRECISIONS[device.type] if name not in unusual]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    relevant = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    flags = [flag for flag in relevant if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.machine())} ({' '.join(flags)})"


class BandwidthProbe:
    """Reads a buffer of `size` bytes once, as fast as torch can: the lower bound for reading the weights."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self._buffer = torch.ones(max(1, size // 8), dtype=torch.int64, device=device)

    def __call__(self) -> torch.Tensor:
        return self._buffer.sum()


def launch_seconds(device: torch.device, launches: int = 2000) -> float:
    """Seconds per kernel launch from Python on a GPU; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    one = torch.ones(1, device=device)
    for _ in range(100):
        one.add_(1)
    synchronize(device)
    began = time.perf_counter()
    for _ in range(launches):
        one.add_(1)
    synchronize(device)
    return (time.perf_counter() - began) / launches


def quiet() -> None:
    """Silence transformers' hints during generation."""
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        transformers.logging.set_verbosity_error()
