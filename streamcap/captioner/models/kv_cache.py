"""`KVCache`: keys and values of every layer, allocated once and written in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamcap.captioner.models.attention_context import AttentionContext


@dataclass(frozen=True, slots=True)
class CacheSlice:
    """The cache rows and positions that one pass writes and attends to.

    All rows write the same positions, [start, stop), or, with `positions`, each row writes its own. `mask` hides later
    positions.
    """

    rows: slice
    start: int
    stop: int
    causal: bool = False
    positions: Tensor | None = None
    """(rows, S) int64, see `AttentionContext`."""
    mask: Tensor | None = None
    """(rows or 1, 1, S, stop) bool; True: attend."""


class KVCache:
    """Keys and values, each (layers, rows, heads, positions, head width); rows [0, `rows`) are in use.

    When a row is removed, the last row moves into its place: the rows in use are always one block, which attention
    reads as a view. Each row has a length of its own. Positions beyond it contain old values, which masks hide.

    This class chooses the positions. Keys and values are written there by `Attention.forward` of gpt2.py; where the CPU
    kernels run by `attention_cached` of kernels/layers.c, in the fused step of a GPU by `norm_qkv` of
    kernels/triton_kernels.py. `StaticDecodeState.admit` copies a prefill into its slots.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_width: int,
        positions: int,
        rows: int,
        cross_positions: int = 0,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._shape = (layers, heads, head_width)
        self.keys = torch.empty(layers, rows, heads, positions, head_width, device=device, dtype=dtype)
        self.values = torch.empty_like(self.keys)
        cross = (layers, rows, heads, cross_positions, head_width)
        self.cross_keys = torch.empty(cross, device=device, dtype=dtype) if cross_positions else None
        self.cross_values = torch.empty(cross, device=device, dtype=dtype) if cross_positions else None
        self.lengths: list[int] = []
        # A masked position is multiplied by zero, but zero times an uninitialized NaN is NaN.
        self.keys.zero_()
        self.values.zero_()

    @property
    def rows(self) -> int:
        """Rows in use."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Allocated rows."""
        return self.keys.shape[1]

    @property
    def positions(self) -> int:
        """Allocated positions per row."""
        return self.keys.shape[3]

    def reserve(self, rows: int, positions: int) -> None:
        """Grow to `rows` rows of `positions` positions; the rows in use keep their content."""
        if rows <= self.capacity and positions <= self.positions:
            return
        rows = max(rows, self.capacity)
        positions = max(positions, self.positions)
        self.keys = self._enlarged(self.keys, rows, positions)
        self.values = self._enlarged(self.values, rows, positions)
        if self.cross_keys is not None and self.cross_values is not None:
            self.cross_keys = self._enlarged(self.cross_keys, rows, self.cross_keys.shape[3])
            self.cross_values = self._enlarged(self.cross_values, rows, self.cross_values.shape[3])

    def _enlarged(self, old: Tensor, rows: int, positions: int) -> Tensor:
        layers, heads, head_width = self._shape
        new = old.new_zeros(layers, rows, heads, positions, head_width)
        used = self.rows
        new[:, :used, :, : old.shape[3]] = old[:, :used]
        return new

    def append(self, lengths: list[int], width: int) -> CacheSlice:
        """Add rows for prefixes of these `lengths`, padded on the right to `width`. Returns the slice to prefill."""
        first = self.rows
        self.lengths.extend(lengths)
        return CacheSlice(rows=slice(first, self.rows), start=0, stop=width, causal=True)

    def extend(self, steps: int) -> CacheSlice:
        """The slice for `steps` more positions of every row in use; `accept` then updates the lengths."""
        rows = slice(0, self.rows)
        longest = max(self.lengths)
        stop = longest + steps
        same = min(self.lengths) == longest
        if same and steps == 1:
            return CacheSlice(rows=rows, start=longest, stop=stop)
        device = self.keys.device
        first = torch.tensor([longest] if same else self.lengths, device=device).unsqueeze(1)
        positions = first + torch.arange(steps, device=device)
        mask = torch.arange(stop, device=device) <= positions.unsqueeze(2)
        return CacheSlice(rows, longest, stop, positions=None if same else positions, mask=mask.unsqueeze(1))

    def accept(self, counts: Sequence[int], first: int = 0) -> None:
        """Add `counts` to the lengths of the rows from `first` on: so many of the written positions are valid."""
        for row, count in enumerate(counts, first):
            self.lengths[row] += count

    def context(self, cache_slice: CacheSlice) -> AttentionContext:
        """The context of one pass; its tensors are views of the slice's rows."""
        rows = cache_slice.rows
        cross_keys = None if self.cross_keys is None else self.cross_keys[:, rows]
        cross_values = None if self.cross_values is None else self.cross_values[:, rows]
        return AttentionContext(
            self.keys[:, rows], self.values[:, rows], cross_keys, cross_values,
            cache_slice.start, cache_slice.stop, cache_slice.causal, cache_slice.positions, cache_slice.mask,
        )  # fmt: skip

    def remove(self, row: int) -> int:
        """Remove `row`; the last row in use moves into its place. Returns that row's old index."""
        last = self.rows - 1
        if row != last:
            length = self.lengths[last]
            self.keys[:, row, :, :length] = self.keys[:, last, :, :length]
            self.values[:, row, :, :length] = self.values[:, last, :, :length]
            if self.cross_keys is not None and self.cross_values is not None:
                self.cross_keys[:, row] = self.cross_keys[:, last]
                self.cross_values[:, row] = self.cross_values[:, last]
            self.lengths[row] = length
        self.lengths.pop()
        return last

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows in use, in this order."""
        source = torch.tensor(rows, device=self.keys.device, dtype=torch.int64)
        self._gather(source, max(self.lengths))
        self.lengths = [self.lengths[row] for row in rows]

    def repeat(self, times: int) -> None:
        """Repeat each row in use `times` times, in adjacent rows: the beams of a prompt after its prefill."""
        source = torch.arange(self.rows, device=self.keys.device).repeat_interleave(times)
        self._gather(source, max(self.lengths))
        self.lengths = [length for length in self.lengths for _ in range(times)]

    def _gather(self, source: Tensor, stop: int) -> None:
        rows = len(source)
        tensors = [(self.keys, stop), (self.values, stop)]
        if self.cross_keys is not None and self.cross_values is not None:
            tensors += [(self.cross_keys, self.cross_keys.shape[3]), (self.cross_values, self.cross_values.shape[3])]
        for tensor, end in tensors:
            tensor[:, :rows, :, :end] = tensor[:, source, :, :end]

    def reorder(self, source: Tensor, start: int) -> None:
        """Copy row `source[r]` to row r, for the positions from `start` on.

        Beams of one prompt share their prefix, so that only generated positions have to be copied. source: (rows,)
        int64; it must map each row to one of the same length, prefix and cross-attention.
        """
        rows, stop = self.rows, max(self.lengths)
        for tensor in (self.keys, self.values):
            tensor[:, :rows, :, start:stop] = tensor[:, source, :, start:stop]
