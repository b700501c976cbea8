"""Devices and number formats: the one place where a loaded model is converted."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from torch import nn

from streamcap.captioner.kernels import fused_step, install, int8_torch, loading
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.errors import InputError

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device called `name`; `auto`: a CUDA device if present, else the CPU. Raises InputError if unavailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"device {name!r} is unknown; it is auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(f"device {name!r} was not found ({count} CUDA devices present)")
    elif device.type != "cpu":
        raise InputError(f"device {name!r} is not supported; it is auto, cpu, cuda or cuda:N")
    return device


def find_precision(name: str, device: torch.device, *, native: bool = False) -> str:
    """The precision called `name`; `auto`: fp16 on a GPU, int8 on CPUs with VNNI, else fp32.

    native: of a checkpoint of streamcap's own family (`families.native`). Its captions are as true in int8 on the
    kernels, and there is no other code that they have to equal: `auto` is int8 on every CPU that has kernels.

    Raises InputError for an unknown name, and for a precision that the device does not support.
    """
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        if native and loading.has_kernels("int8"):
            return "int8"
        return "int8" if int8_torch.engine() is not None and not int8_torch.int8_saturates() else "fp32"
    known = PRECISIONS[device.type]
    if name not in known:
        everywhere = sorted({precision for names in PRECISIONS.values() for precision in names})
        if name in everywhere:
            raise InputError(f"precision {name} is not supported on {device.type}; use auto or {', '.join(known)}")
        raise InputError(f"precision {name!r} is unknown; use auto or one of {', '.join(everywhere)}")
    if name == "int8" and not has_int8():
        raise InputError("precision int8 needs the compiled kernels, or a torch with FBGEMM (x86 CPUs); use fp32 here")
    if name == "bf16" and not _has_bf16(device):
        raise InputError(f"precision bf16: this {device.type} has no bf16 arithmetic; use fp32 here")
    return name


def has_int8() -> bool:
    """Whether this machine computes in int8, with the kernels or with torch."""
    return int8_torch.engine() is not None or loading.has_kernels("int8")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def _keeps_float32(module: nn.Module) -> bool:
    """Whether layers that the kernels do not support stay float32 when `module` is converted to int8.

    Without VNNI, torch's int8 matmul keeps 7 bits of an activation. A decoder without kernel support uses it anyway,
    because int8 was requested. For the few remaining layers of an encoder or a mapping it would cost more accuracy
    than it saves time. A torch without int8 keeps all of them.
    """
    if int8_torch.engine() is None:
        return True
    return int8_torch.int8_saturates() and loading.load_library("int8") is not None and not isinstance(module, GPT2)


def convert(module: Module, precision: str, device: torch.device) -> Module:
    """Move `module` (float32, on the CPU) to `device` and convert it to `precision`; may change it in place.

    Raises InputError if the device has too little memory.
    """
    try:
        if device.type == "cpu" and precision in ("int8", "fp32"):
            install.install_kernels(module, precision)
        if precision == "int8" and not _keeps_float32(module):
            int8_torch.quantize(module)  # the layers that the kernels do not support
        converted = module.to(device, DTYPES.get(precision))
    except torch.OutOfMemoryError:
        raise InputError(
            f"out of memory on {device}: the model does not fit; use another device or precision"
        ) from None
    if isinstance(converted, GPT2) and device.type == "cpu" and not install.uses_kernels(converted):
        converted.compile()
    if isinstance(converted, GPT2) and device.type == "cuda":
        fused_step.install(converted)
    return converted
