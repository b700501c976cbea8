"""`AttentionContext`: the tensors that the attention of one decoder pass reads and writes."""

# No `from __future__ import annotations`: TorchScript cannot read a NamedTuple's annotations as strings.
from typing import NamedTuple

from torch import Tensor


class AttentionContext(NamedTuple):
    """Where one pass over R rows and S positions per row writes keys and values, and which positions it attends to.

    Shared by all layers. L layers, H heads, P cache positions, D the width of a head, N encoder states.
    """

    keys: Tensor
    """(L, R, H, P, D), written in place."""
    values: Tensor
    """(L, R, H, P, D), written in place."""
    cross_keys: Tensor | None
    """(L, R, H, N, D); None without cross-attention."""
    cross_values: Tensor | None
    """(L, R, H, N, D)."""
    start: int
    """Without `positions`, every row writes the cache positions [start, stop)."""
    stop: int
    """Attention does not read cache positions from here on."""
    causal: bool
    """Position i of the pass attends to the cache positions up to i; `mask` is None and `start` is 0."""
    positions: Tensor | None
    """(R, S) int64: the cache positions that each row writes, consecutive; None: [start, stop)."""
    mask: Tensor | None
    """(R or 1, 1, S, stop): a boolean mask (True: attend) or an additive one; None: attend to all before `stop`."""
