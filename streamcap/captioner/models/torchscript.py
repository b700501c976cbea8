"""Compiles modules with TorchScript, which runs a pass without Python between two operations.

A decode step of GPT-2 on a CPU is some 200 small operations; calling them from Python costs as much time as reading the
weights. TorchScript is deprecated, so it is optional: without it, the modules are called directly.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Forward = Callable[..., Tensor]


def to_torchscript(module: nn.Module) -> Forward:
    """`module` as TorchScript; if it does not compile, `module` itself, with a warning in the log."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled: nn.Module = torch.jit.script(module)
    except (RuntimeError, AttributeError, OSError) as error:
        # OSError: the source code is not readable, as in a frozen application.
        reason = str(error).strip().partition("\n")[0]
        log.warning("%s runs without TorchScript, which is slower: %s", type(module).__name__, reason)
        return module

    def run(*arguments: Any) -> Tensor:
        # Not optimized: specializing to shapes gains nothing here and would run again for every new shape.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined] # public, missing in torch's __all__
            out: Tensor = compiled(*arguments)
        return out

    return run
