"""What the attention of one decoder pass reads and writes."""

# Without `from __future__ import annotations`: TorchScript cannot read a NamedTuple's annotations as strings.
from typing import NamedTuple

from torch import Tensor


class AttentionContext(NamedTuple):
    """Where one pass of R rows and S positions a row writes its keys and values, and what it may look at.

    All layers share it. L layers, H heads, P cache positions, D the width of a head, N encoder states.
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
    """Cache positions from here on are not looked at."""
    causal: bool
    """Position i of the pass sees the cache positions up to i; `mask` is None and `start` 0."""
    positions: Tensor | None
    """(R, S) int64: the cache positions that each row writes, without a gap; None: [start, stop)."""
    mask: Tensor | None
    """(R or 1, 1, S, stop): where a position may look, as bool or as numbers to add; None: all before `stop`."""
