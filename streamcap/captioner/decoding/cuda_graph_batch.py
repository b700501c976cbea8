"""A running batch that lives on the device: greedy decoding in slots of fixed shape, the host looks in now and then.

Embedding, position, layers, head, choice and the test for the end are all on the device, on tensors that never move;
a step is one replay (see `graphs`). The host sees tokens once per `steps_per_sync` tokens, when captions may leave
and others join.
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
"""Positions are reserved in multiples of this many, as attention kernels and graphs like them."""


class StaticDecodeState:
    """The device's side: the cache and each slot's state, R slots of P positions and T tokens."""

    def __init__(self, gpt2: GPT2, rows: int, positions: int, tokens: int, stop: frozenset[int], cross: int) -> None:
        device = gpt2.device
        self.gpt2 = gpt2
        self.positions = positions
        self.stop = torch.tensor(sorted(stop), device=device, dtype=torch.int64)  # (stop tokens,)
        self.cache = gpt2.new_cache(rows=rows, positions=positions, cross_positions=cross)  # (layers, R, heads, P, …)
        self.columns = torch.arange(positions, device=device)  # (P,)
        self.open = torch.zeros(positions, device=device, dtype=gpt2.dtype)  # (P,) a mask that hides nothing
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) the newest, not yet in the cache
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) positions in the cache
        self.limit = torch.ones(rows, dtype=torch.int64, device=device)  # (R,) tokens a caption may have
        self.active = torch.zeros(rows, dtype=torch.bool, device=device)  # (R,)
        self.sum_logprobs = torch.zeros(rows, dtype=torch.float64, device=device)  # (R,) sum of log-probabilities
        self.num_generated = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) tokens so far
        self.tokens = torch.zeros(rows, tokens, dtype=torch.int64, device=device)  # (R, T)
        self._steps: dict[int, GraphedCallable] = {}
        self.prefills: dict[tuple[int, int], tuple[GraphedCallable, KVCache]] = {}
        """By rows and positions; the cache is where the prefill writes."""

    @property
    def rows(self) -> int:
        return len(self.token)

    def step(self, rows: int) -> None:
        """One more token in slots [0, `rows`) that are still going; the others idle in place."""
        replay = self._steps.get(rows)
        if replay is None:
            # The calls that warm up and record are steps as well: what they write is put back.
            state = [self.token, self.length, self.active, self.sum_logprobs, self.num_generated, self.tokens]
            kept = [part.clone() for part in state]
            replay = self._steps[rows] = GraphedCallable(lambda: self._step(rows), (), self.gpt2.device)
            for part, before in zip(state, kept, strict=True):
                part.copy_(before)
        replay()

    def drop_graphs(self) -> None:
        """Drop the recorded steps, and with them the circle that would keep the cache until the garbage collector."""
        self._steps.clear()

    def _step(self, rows: int) -> tuple[Tensor, ...]:
        gpt2, cache = self.gpt2, self.cache
        length, active = self.length[:rows], self.active[:rows]
        # Numbers, not booleans, which attention would turn into numbers anew in every layer.
        mask = self.open.masked_fill(self.columns > length.unsqueeze(1), -math.inf)[:, None, None, :]
        position = gpt2.token_position_weight * gpt2.wpe(length)
        x = (gpt2.wte(self.token[:rows]) + position).unsqueeze(1)
        cache_slice = CacheSlice(slice(0, rows), 0, self.positions, positions=length.unsqueeze(1), mask=mask)
        hidden = gpt2.backend.run_layers(x, cache.context(cache_slice))
        logits = gpt2.logits(hidden[:, 0])
        chosen = greedy_tokens(logits)
        num_generated = self.num_generated[:rows]
        place = num_generated.clamp(max=self.tokens.shape[1] - 1).unsqueeze(1)
        kept = torch.where(active, chosen, self.tokens[:rows].gather(1, place).squeeze(1))
        self.tokens[:rows].scatter_(1, place, kept.unsqueeze(1))
        self.sum_logprobs[:rows] += torch.where(active, token_logprobs(logits, chosen).double(), 0.0)
        num_generated += active
        self.token[:rows] = chosen
        # A slot that has ended stays where it is, so that its writes never leave the cache.
        active &= ~(self._stops(chosen) | (num_generated >= self.limit[:rows]))
        length += active
        return ()

    def _stops(self, tokens: Tensor) -> Tensor:
        # Not torch.isin, which may sort and wait for the host.
        return (tokens.unsqueeze(1) == self.stop).any(1)

    def admit(self, slots: list[int], prompts: list[Prompt], stop_criteria: list[int]) -> None:
        """Read prompts into `slots`, which gives each its first token."""
        batch = PromptBatch.of(prompts)
        chosen, score, buffers = self._prefill(batch)
        device = self.token.device
        where, limit = torch.tensor([slots, stop_criteria]).to(device, non_blocking=True)
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
        """First tokens (J,), their log-probabilities (J,) and the keys and values they left behind.

        All hold until the next call.
        """
        count, width = prompts.prefix.shape[:2]
        size = bucket(count, self.rows)
        inputs = [_padded(prompts.prefix, size), _padded(prompts.lengths, size, 1)]
        inputs += [_padded(more, size) for more in (prompts.later_prefix, prompts.cross) if more is not None]
        found = self.prefills.get((size, width))
        if found is None:
            buffers = _PrefillBuffers(self.gpt2, size, prompts)
            found = GraphedCallable(buffers.prefill, inputs, self.gpt2.device), buffers.cache
            self.prefills[size, width] = found
        replay, cache = found
        chosen, score = replay(*inputs)
        return chosen[:count], score[:count], cache

    def sync_to_host(self, rows: int) -> tuple[list[bool], list[int], list[list[int]], list[float]]:
        """What slots [0, `rows`) hold: still going, tokens produced, the tokens, the sum of their log-probabilities.

        Waits for the device: the one synchronisation there is.
        """
        # The sums travel as the integers that their bits spell: one copy for everything.
        columns = (self.active[:rows].long(), self.num_generated[:rows], self.sum_logprobs[:rows].view(torch.int64))
        found = torch.cat((torch.stack(columns, dim=1), self.tokens[:rows]), dim=1).cpu()
        sums = found[:, 2].contiguous().view(torch.float64)
        active = found[:, 0].bool()
        return active.tolist(), found[:, 1].tolist(), found[:, 3:].tolist(), sums.tolist()


class _PrefillBuffers:
    """Where one prefill of a fixed shape writes, before it is copied into slots."""

    def __init__(self, gpt2: GPT2, rows: int, like: PromptBatch) -> None:
        self._gpt2 = gpt2
        self._again = like.later_prefix is not None
        self.cache = gpt2.new_cache(rows=rows, positions=like.width, cross_positions=like.cross_positions)
        self._cache_slice = CacheSlice(slice(0, rows), 0, like.width, causal=True)

    def prefill(self, prefix: Tensor, lengths: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """`more`: what the prompts have of `later_prefix` and `cross`."""
        later_prefix = more[0] if self._again else None
        cross = more[-1] if len(more) > self._again else None
        hidden = prefill_prompts(
            self._gpt2, PromptBatch(prefix, lengths, later_prefix, cross), self.cache.context(self._cache_slice)
        )
        logits = self._gpt2.logits(hidden[:, 0])
        chosen = greedy_tokens(logits)
        return chosen, token_logprobs(logits, chosen)


def _padded(rows: Tensor, size: int, fill: int = 0) -> Tensor:
    if len(rows) == size:
        return rows
    return torch.cat((rows, rows.new_full((size - len(rows), *rows.shape[1:]), fill)))


class CudaGraphBatch(Generic[Key]):
    """RunningBatch's promises, greedy only, on `StaticDecodeState`. All calls come from one thread.

    A caption that stops between two looks idles until the next. The slots stay for the next captions, with what was
    recorded for them.
    """

    def __init__(
        self, gpt2: GPT2, stop_criteria: StopCriteria, *, max_rows: int, steps_per_sync: int = STEPS_PER_SYNC
    ) -> None:
        self._gpt2 = gpt2
        self.stop_criteria = stop_criteria
        self._max_rows = max_rows
        self._steps_per_look = steps_per_sync
        self._slots: StaticDecodeState | None = None
        self._rows: dict[int, Request[Key]] = {}
        self._waiting: WaitingQueue[Key] = WaitingQueue(gpt2, stop_criteria)

    @property
    def active(self) -> int:
        """Captions not finished, waiting ones included."""
        return len(self._rows) + len(self._waiting)

    @property
    def rows(self) -> list[Request[Key]]:
        """The captions being decoded, with the tokens of the last look."""
        return list(self._rows.values())

    def add(self, key: Key, prompt: Prompt, draft: DraftSource | None = None) -> None:
        """Queue one caption; it joins at the next `step`. The draft is not used."""
        self._waiting.add(key, prompt)

    @torch.inference_mode()
    def drop(self, key: Key) -> bool:
        """Forget an unfinished caption; false when there is none of this key."""
        for slot, row in self._rows.items():
            if row.key == key:
                del self._rows[slot]
                if self._slots is not None:
                    self._slots.active[slot] = False
                return True
        return self._waiting.drop(key)

    @torch.inference_mode()
    def step(self) -> list[Request[Key]]:
        """Admit what waits, decode up to `steps_per_sync` tokens everywhere; the captions that are finished."""
        joined = self._admit()
        if self._slots is None or not self._rows:
            return []
        rows = bucket(max(self._rows) + 1, self._slots.rows)
        if joined:
            # The first words of new captions are worth a look of their own.
            return self._sync(rows)
        longest = max(row.limit - len(row.tokens) for row in self._rows.values())
        for _ in range(min(self._steps_per_look, longest)):
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
        """Slots with room for those that join; larger ones take over what the old ones hold."""
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
        new = StaticDecodeState(self._gpt2, rows, positions, tokens, self.stop_criteria.stop_tokens, cross)
        if old is not None:
            _copy_state(new, old)
        self._slots = new
        return new


def _copy_state(new: StaticDecodeState, old: StaticDecodeState) -> None:
    # What was recorded for prefixes does not know the slots; what was recorded for steps holds the old ones.
    new.prefills = old.prefills
    old.drop_graphs()
    rows, positions = old.rows, old.positions
    for name in ("token", "length", "limit", "active", "sum_logprobs", "num_generated"):
        getattr(new, name)[:rows] = getattr(old, name)
    new.tokens[:rows, : old.tokens.shape[1]] = old.tokens
    new.cache.keys[:, :rows, :, :positions] = old.cache.keys
    new.cache.values[:, :rows, :, :positions] = old.cache.values
    if new.cache.cross_keys is not None and new.cache.cross_values is not None:
        assert old.cache.cross_keys is not None and old.cache.cross_values is not None  # noqa: S101 - of one model
        new.cache.cross_keys[:, :rows] = old.cache.cross_keys
        new.cache.cross_values[:, :rows] = old.cache.cross_values
