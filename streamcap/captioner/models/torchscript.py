"""TorchScript, the one part of torch that runs a whole pass without Python between two operations.

A decode step of GPT-2 on a CPU is some 200 small operations; from Python they cost as much as reading the weights.
torch calls TorchScript deprecated, so nothing depends on it: where it is missing, the modules run as they are.
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
    """`module` as TorchScript, or `module` itself, said in the log, where torch will not compile it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled: nn.Module = torch.jit.script(module)
    except (RuntimeError, AttributeError, OSError) as error:
        # OSError: sources that cannot be read, as in a frozen application.
        reason = str(error).strip().partition("\n")[0]
        log.warning("%s runs without TorchScript, which is slower: %s", type(module).__name__, reason)
        return module

    def run(*arguments: Any) -> Tensor:
        # Unoptimised: specialising to shapes gains nothing here, and would be done again for every new one.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined] # public, missing in torch's __all__
            out: Tensor = compiled(*arguments)
        return out

    return run
