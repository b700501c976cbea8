"""Devices and number formats: the one place where a loaded model is converted."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from streamcap.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

PRECISIONS = ("fp32",)


def find_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one, else the CPU. Raises InputError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"device {name!r} is unknown; it is auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"device {name!r} is not there ({count} CUDA devices found)")
    elif device.type != "cpu":
        raise InputError(f"device {name!r} is not supported; it is auto, cpu, cuda or cuda:N")
    return device


def find_precision(name: str, device: torch.device) -> str:
    """`auto` is what is best on `device`. Raises InputError for an unknown name."""
    if name == "auto":
        return "fp32"
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r} is unknown; it is auto or {', '.join(PRECISIONS)}")
    return name


def convert(module: Module, precision: str, device: torch.device) -> Module:
    """`module` (float32, on the CPU) on `device` in `precision`; may change it in place."""
    return module.to(device)
