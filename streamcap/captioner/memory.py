"""Estimates the memory that models need from the sizes of their files. Loads torch only for a GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamcap.captioner import registry
from streamcap.errors import InputError
from streamcap.local_path import find_local

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_MODEL = re.compile(r"(?:pytorch_)?model(?:-\d{5}-of-\d{5})?\.\w+")
"""Names of the model's weights in a directory that may hold an optimizer's state too."""
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)")
_FACTORS = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5, "int8": 0.3}
"""Size in memory over that of fp32 weights. int8: packed weights, and layers that stay fp32."""
_WORK = 0.1
"""Activations, KV cache and buffers over the weights."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """An estimate, in bytes."""

    model: str
    device: str
    """`cpu` or `cuda:N`."""
    resident: int
    """While it runs."""
    loading: int
    """At most, while it loads."""


def memory_need(name: str, model: str, device: str, precision: str) -> MemoryNeed | None:
    """What `model` (as for `--model`) needs; None if its files are not on this machine yet, or cannot be read."""
    if model != "mini" and model in registry.MODELS:
        path = registry.cached(registry.MODELS[model])
    else:
        try:
            path = registry.find_checkpoint(model) if _is_local(model) else None
        except InputError:  # loading reports what is wrong
            path = None
    if path is None:
        return None
    try:
        size = _weight_bytes(path)
    except OSError:  # loading reports it
        return None
    if device == "auto" or precision == "auto" or device.startswith("cuda"):
        from streamcap.captioner.kernels.precision import find_device, find_precision

        target = find_device(device)
        device = "cpu" if target.type == "cpu" else f"cuda:{target.index or 0}"
        precision = find_precision(precision, target)
    resident = round(size * (_FACTORS.get(precision, 1.0) + _WORK))
    return MemoryNeed(name, device, resident, resident + (size if device == "cpu" else 0))


def check_memory(needs: Sequence[MemoryNeed]) -> str:
    """One line with the sum of `needs`. Raises InputError if a device cannot hold them."""
    lines = []
    for device in dict.fromkeys(need.device for need in needs):
        there = [need for need in needs if need.device == device]
        # They load one after another: only one at a time needs more.
        total = sum(need.resident for need in there) + max(need.loading - need.resident for need in there)
        each = ", ".join(f"{need.model} {_gigabytes(need.resident)}" for need in there)
        available = available_bytes(device)
        place = "memory" if device == "cpu" else f"memory of {device}"
        if available is not None and total > available:
            raise InputError(
                f"the models need about {_gigabytes(total)} of {place} ({each}), but {_gigabytes(available)} are "
                "available; use fewer or smaller models, or a smaller --precision"
            )
        of = "" if available is None else f" of {_gigabytes(available)} available"
        lines.append(f"the models need about {_gigabytes(total)}{of} {place}: {each}")
    return "; ".join(lines)


def available_bytes(device: str) -> int | None:
    """Bytes of `device` that can be used now; None if the system does not tell."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = [_proc_available(Path("/proc/meminfo")), _cgroup_available(Path("/sys/fs/cgroup"))]
    return min((count for count in free if count is not None), default=None)


def _proc_available(file: Path) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup_available(directory: Path) -> int | None:
    """What the container's limit leaves; its page cache can be given back."""
    try:
        limit = (directory / "memory.max").read_text().strip()
        used = int((directory / "memory.current").read_text())
        statistics = (directory / "memory.stat").read_text().splitlines()
        cache = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
        return None if limit == "max" else max(0, int(limit) - used + cache)
    except (OSError, ValueError, IndexError):
        return None


def _is_local(model: str) -> bool:
    return model == "mini" or find_local(model) is not None


def _weight_bytes(path: Path) -> int:
    """The size of the files that loading `path` reads: a file, a shard or index with all its shards, or a directory."""
    if path.is_file():
        is_index = path.name.endswith(".index.json")
        whole = path.name.removesuffix(".index.json") if is_index else _whole_name(path)
        shards = [path] if whole is None else [one for one in path.parent.iterdir() if _whole_name(one) == whole]
        return sum(shard.stat().st_size for shard in shards)
    files = [file for file in path.iterdir() if file.suffix in _WEIGHTS and file.is_file()]
    files = [file for file in files if _MODEL.fullmatch(file.name)] or files
    # A directory may hold the same weights in two formats: one of them is loaded.
    by_suffix = {suffix: sum(file.stat().st_size for file in files if file.suffix == suffix) for suffix in _WEIGHTS}
    return by_suffix[".safetensors"] or max(by_suffix.values())


def _whole_name(file: Path) -> str | None:
    """`model.safetensors` of a shard `model-00001-of-00003.safetensors`; None for other files."""
    shard = _SHARD.fullmatch(file.name)
    return None if shard is None else shard["stem"] + shard["suffix"]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 0.95e8 else f"{count / 1e6:.0f} MB"
