"""`CudaGraphBatch`: continuous batching on a GPU with CUDA graphs, for greedy decoding.

The whole step runs on the device, on tensors at fixed addresses: embedding, layers, head, argmax and the stop check. A
step is one graph replay (see `cuda_graphs`). The host synchronizes every `steps_per_sync` tokens; captions join and
leave then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from streamcap.captioner.decoding.batch import Request, StopCriteria, WaitingQueue
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, bucket
from streamcap.captioner.decoding.drafts import DraftSource
from streamcap.captioner.decoding.sampling import greedy_tokens, token_logprobs
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import CacheSlice, KVCache
from streamcap.captioner.models.prompt import Prompt, PromptBatch, prefill_prompts

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

STEPS_PER_SYNC = 4
POSITIONS_STEP = 32
"""The cache's positions are a multiple of this: attention kernels run faster, and fewer graphs are needed."""


class StaticDecodeState:
    """The state on the device: the KV cache and the state of R slots, each of P positions and T tokens."""

    def __init__(
        self,
        gpt2: GPT2,
        rows: int,
        positions: int,
        tokens: int,
        stop: frozenset[int],
        cross: int,
        *,
        grounded: bool = False,
    ) -> None:
        device = gpt2.device
        self.gpt2 = gpt2
        self.positions = positions
        self.stop = torch.tensor(sorted(stop), device=device, dtype=torch.int64)  # (stop tokens,)
        self.cache = gpt2.new_cache(rows=rows, positions=positions, cross_positions=cross)  # (layers, R, heads, P, …)
        self.columns = torch.arange(positions, device=device)  # (P,)
        self.open = torch.zeros(positions, device=device, dtype=gpt2.dtype)  # (P,) a mask that hides nothing
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) newest token, not yet in the cache
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) positions used in the cache
        self.limit = torch.ones(rows, dtype=torch.int64, device=device)  # (R,) limit of a caption's tokens
        self.active = torch.zeros(rows, dtype=torch.bool, device=device)  # (R,) slots that are still decoding
        self.sum_logprobs = torch.zeros(rows, dtype=torch.float64, device=device)  # (R,) sum of log-probabilities
        self.num_generated = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) tokens so far
        self.tokens = torch.zeros(rows, tokens, dtype=torch.int64, device=device)  # (R, T)
        denied = torch.zeros(rows, gpt2.config.vocab_size, dtype=torch.bool, device=device) if grounded else None
        self.denied = denied  # (R, V) tokens that a slot holds back, see `grounding`
        self._steps: dict[int, GraphedCallable] = {}
        self.prefills: dict[tuple[int, int], tuple[GraphedCallable, KVCache]] = {}
        """By rows and positions: the graph, and the cache that it writes."""

    @property
    def rows(self) -> int:
        return len(self.token)

    def step(self, rows: int) -> None:
        """One more token in the active slots of [0, `rows`); the others do not change."""
        replay = self._steps.get(rows)
        if replay is None:
            # Warm-up and capture run the step as well: restore the state afterwards.
            state = [self.token, self.length, self.active, self.sum_logprobs, self.num_generated, self.tokens]
            saved = [tensor.clone() for tensor in state]
            replay = self._steps[rows] = GraphedCallable(lambda: self._step(rows), (), self.gpt2.device)
            for tensor, before in zip(state, saved, strict=True):
                tensor.copy_(before)
        replay()

    def drop_graphs(self) -> None:
        """Drop the captured steps: their reference cycle keeps the cache in memory until garbage collection."""
        self._steps.clear()

    def _step(self, rows: int) -> tuple[Tensor, ...]:
        gpt2, cache = self.gpt2, self.cache
        length, active = self.length[:rows], self.active[:rows]
        # An additive mask: attention would convert a boolean one again in every layer.
        mask = self.open.masked_fill(self.columns > length.unsqueeze(1), -math.inf)[:, None, None, :]
        position = gpt2.token_position_weight * gpt2.wpe(length)
        x = (gpt2.wte(self.token[:rows]) + position).unsqueeze(1)
        cache_slice = CacheSlice(slice(0, rows), 0, self.positions, positions=length.unsqueeze(1), mask=mask)
        hidden = gpt2.backend.run_layers(x, cache.context(cache_slice))
        logits = gpt2.logits(hidden[:, 0])
        chosen = greedy_tokens(logits if self.denied is None else logits.masked_fill(self.denied[:rows], -math.inf))
        num_generated = self.num_generated[:rows]
        index = num_generated.clamp(max=self.tokens.shape[1] - 1).unsqueeze(1)
        updated = torch.where(active, chosen, self.tokens[:rows].gather(1, index).squeeze(1))
        self.tokens[:rows].scatter_(1, index, updated.unsqueeze(1))
        self.sum_logprobs[:rows] += torch.where(active, token_logprobs(logits, chosen).double(), 0.0)
        num_generated += active
        self.token[:rows] = chosen
        # The length of a finished slot does not grow, so that its writes stay inside the cache.
        active &= ~(self._stops(chosen) | (num_generated >= self.limit[:rows]))
        length += active
        return ()

    def _stops(self, tokens: Tensor) -> Tensor:
        # Not torch.isin, which may sort and synchronize with the host.
        return (tokens.unsqueeze(1) == self.stop).any(1)

    def admit(self, slots: list[int], prompts: list[Prompt], limits: list[int]) -> None:
        """Prefill prompts into `slots`, which gives each its first token. limits: maximum tokens of each caption."""
        batch = PromptBatch.of(prompts)
        if self.denied is not None and batch.denied is not None:
            self.denied[torch.tensor(slots, device=batch.denied.device)] = batch.denied
        chosen, score, buffers = self._prefill(batch)
        device = self.token.device
        where, limit = torch.tensor([slots, limits]).to(device, non_blocking=True)
        count, width = batch.prefix.shape[:2]
        self.cache.keys[:, where, :, :width] = buffers.keys[:, :count]
        self.cache.values[:, where, :, :width] = buffers.values[:, :count]
        if buffers.cross_keys is not None and buffers.cross_values is not None:
            assert self.cache.cross_keys is not None and self.cache.cross_values is not None  # noqa: S101 - as scratch
            self.cache.cross_keys[:, where] = buffers.cross_keys[:, :count]
            self.cache.cross_values[:, where] = buffers.cross_values[:, :count]
        self.token[where] = chosen
        self.length[where] = batch.lengths
        self.limit[where] = limit
        self.sum_logprobs[where] = score.double()
        self.num_generated[where] = 1
        self.tokens[where, 0] = chosen
        self.active[where] = ~self._stops(chosen) & (limit > 1)

    def _prefill(self, prompts: PromptBatch) -> tuple[Tensor, Tensor, KVCache]:
        """First tokens (J,), their log-probabilities (J,) and a cache with the prompts' keys and values.

        All are valid until the next call.
        """
        count, width = prompts.prefix.shape[:2]
        size = bucket(count, self.rows)
        inputs = [_padded(prompts.prefix, size), _padded(prompts.lengths, size, 1)]
        optional = (prompts.later_prefix, prompts.cross, prompts.denied)
        inputs += [_padded(more, size) for more in optional if more is not None]
        graph = self.prefills.get((size, width))
        if graph is None:
            buffers = _PrefillBuffers(self.gpt2, size, prompts)
            graph = GraphedCallable(buffers.prefill, inputs, self.gpt2.device), buffers.cache
            self.prefills[size, width] = graph
        replay, cache = graph
        chosen, score = replay(*inputs)
        return chosen[:count], score[:count], cache

    def sync_to_host(self, rows: int) -> tuple[list[bool], list[int], list[list[int]], list[float]]:
        """Slots [0, `rows`): whether active, number of tokens, the tokens, and the sum of their log-probabilities.

        Waits for the device; nothing else does.
        """
        # The sums are copied as the int64 with the same bits: one transfer for everything.
        columns = (self.active[:rows].long(), self.num_generated[:rows], self.sum_logprobs[:rows].view(torch.int64))
        table = torch.cat((torch.stack(columns, dim=1), self.tokens[:rows]), dim=1).cpu()
        sums = table[:, 2].contiguous().view(torch.float64)
        active = table[:, 0].bool()
        return active.tolist(), table[:, 1].tolist(), table[:, 3:].tolist(), sums.tolist()


class _PrefillBuffers:
    """The cache that one prefill of a fixed shape writes, before it is copied into slots."""

    def __init__(self, gpt2: GPT2, rows: int, like: PromptBatch) -> None:
        self._gpt2 = gpt2
        self._has = tuple(part is not None for part in (like.later_prefix, like.cross, like.denied))
        self.cache = gpt2.new_cache(rows=rows, positions=like.width, cross_positions=like.cross_positions)
        self._cache_slice = CacheSlice(slice(0, rows), 0, like.width, causal=True)

    def prefill(self, prefix: Tensor, lengths: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """more: `later_prefix`, `cross` and `denied`, if the prompts have them."""
        rest = iter(more)
        later_prefix, cross, denied = (next(rest) if has else None for has in self._has)
        hidden = prefill_prompts(
            self._gpt2, PromptBatch(prefix, lengths, later_prefix, cross), self.cache.context(self._cache_slice)
        )
        logits = self._gpt2.logits(hidden[:, 0])
        chosen = greedy_tokens(logits if denied is None else logits.masked_fill(denied, -math.inf))
        return chosen, token_logprobs(logits, chosen)


def _padded(rows: Tensor, size: int, fill: int = 0) -> Tensor:
    if len(rows) == size:
        return rows
    return torch.cat((rows, rows.new_full((size - len(rows), *rows.shape[1:]), fill)))


class CudaGraphBatch(Generic[Key]):
    """`ContinuousBatch`'s interface, greedy only, on a `StaticDecodeState`. Not thread-safe.

    A caption that ends between two synchronizations idles until the next one. The slots and their graphs are reused for
    the next captions.
    """

    def __init__(
        self, gpt2: GPT2, stop_criteria: StopCriteria, *, max_rows: int, steps_per_sync: int = STEPS_PER_SYNC
    ) -> None:
        self._gpt2 = gpt2
        self.stop_criteria = stop_criteria
        self._max_rows = max_rows
        self._steps_per_sync = steps_per_sync
        self._slots: StaticDecodeState | None = None
        self._rows: dict[int, Request[Key]] = {}
        self._waiting: WaitingQueue[Key] = WaitingQueue(gpt2, stop_criteria)

    @property
    def active(self) -> int:
        """Unfinished captions, including waiting ones."""
        return len(self._rows) + len(self._waiting)

    @property
    def rows(self) -> list[Request[Key]]:
        """The captions in the batch, with their tokens at the last synchronization."""
        return list(self._rows.values())

    def add(self, key: Key, prompt: Prompt, draft: DraftSource | None = None) -> None:
        """Queue one caption; it joins at the next `step`. The draft is ignored."""
        self._waiting.add(key, prompt)

    @torch.inference_mode()
    def drop(self, key: Key) -> bool:
        """Drop an unfinished caption; False if there is none with this key."""
        for slot, row in self._rows.items():
            if row.key == key:
                del self._rows[slot]
                if self._slots is not None:
                    self._slots.active[slot] = False
                return True
        return self._waiting.drop(key)

    @torch.inference_mode()
    def step(self) -> list[Request[Key]]:
        """Admit waiting captions, decode up to `steps_per_sync` tokens. Returns the captions that finished."""
        joined = self._admit()
        if self._slots is None or not self._rows:
            return []
        rows = bucket(max(self._rows) + 1, self._slots.rows)
        if joined:
            # New captions show their first token at once.
            return self._sync(rows)
        longest = max(row.limit - len(row.tokens) for row in self._rows.values())
        for _ in range(min(self._steps_per_sync, longest)):
            self._slots.step(rows)
        return self._sync(rows)

    def _sync(self, rows: int) -> list[Request[Key]]:
        assert self._slots is not None  # noqa: S101 - there are rows in it
        active, num_generated, tokens, sums = self._slots.sync_to_host(rows)
        finished = []
        for slot, row in list(self._rows.items()):
            row.tokens = tokens[slot][: num_generated[slot]]
            row.sum_logprobs = sums[slot]
            row.passes = len(row.tokens)
            if not active[slot]:
                finished.append(self._rows.pop(slot))
        return finished

    def _admit(self) -> bool:
        count = min(len(self._waiting), self._max_rows - len(self._rows))
        if count < 1:
            return False
        joining = self._waiting.peek(count)
        slots = self._reserve(joining)
        free = [slot for slot in range(slots.rows) if slot not in self._rows][:count]
        slots.admit(free, [prompt for _, prompt in joining], [row.limit for row, _ in joining])
        for slot, (row, _) in zip(free, joining, strict=True):
            self._rows[slot] = row
        self._waiting.pop(count)
        return True

    def _reserve(self, joining: list[tuple[Request[Key], Prompt]]) -> StaticDecodeState:
        """A state with enough slots for the joining captions; if it has to grow, the old state is copied."""
        prompt = joining[0][1]
        tokens = max(row.limit for row, _ in joining)
        positions = max(prompt.length + row.limit for row, prompt in joining)
        positions = min(-(-positions // POSITIONS_STEP) * POSITIONS_STEP, self._gpt2.config.n_positions)
        rows = bucket(len(self._rows) + len(joining), self._max_rows)
        old = self._slots
        if old is not None:
            if rows <= old.rows and positions <= old.positions and tokens <= old.tokens.shape[1]:
                return old
            rows, positions = max(rows, old.rows), max(positions, old.positions)
            tokens = max(tokens, old.tokens.shape[1])
        cross = 0 if prompt.cross is None else prompt.cross.shape[0]
        grounded = prompt.denied is not None
        new = StaticDecodeState(
            self._gpt2, rows, positions, tokens, self.stop_criteria.stop_tokens, cross, grounded=grounded
        )
        if old is not None:
            _copy_state(new, old)
        self._slots = new
        return new


def _copy_state(new: StaticDecodeState, old: StaticDecodeState) -> None:
    # Prefill graphs do not depend on the slots and stay valid; step graphs refer to the old ones.
    new.prefills = old.prefills
    old.drop_graphs()
    rows, positions = old.rows, old.positions
    for name in ("token", "length", "limit", "active", "sum_logprobs", "num_generated"):
        getattr(new, name)[:rows] = getattr(old, name)
    if new.denied is not None and old.denied is not None:
        new.denied[:rows] = old.denied
    new.tokens[:rows, : old.tokens.shape[1]] = old.tokens
    new.cache.keys[:, :rows, :, :positions] = old.cache.keys
    new.cache.values[:, :rows, :, :positions] = old.cache.values
    if new.cache.cross_keys is not None and new.cache.cross_values is not None:
        assert old.cache.cross_keys is not None and old.cache.cross_values is not None  # noqa: S101 - of one model
        new.cache.cross_keys[:, :rows] = old.cache.cross_keys
        new.cache.cross_values[:, :rows] = old.cache.cross_values
