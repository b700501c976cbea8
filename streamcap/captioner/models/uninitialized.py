"""`uninitialized`: builds modules whose weights are loaded afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_INITIALIZERS = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.xavier_uniform_})


class _SkipInitializers(TorchFunctionMode):
    """Random numbers for tensors without storage are useless, and `normal_` of them imports torch._dynamo: 2.7 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _INITIALIZERS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def uninitialized() -> Iterator[None]:
    """Modules built inside are on the meta device: shapes without memory and without values."""
    with torch.device("meta"), _SkipInitializers():
        yield
