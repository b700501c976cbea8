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
from streamcap.captioner.decoding.sampling import greedy_tokens, token_logprobs
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt, pad_prefixes

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

STEPS_PER_SYNC = 4
POSITIONS_STEP = 32
"""Positions are reserved in multiples of this many, as attention kernels and graphs like them."""


class StaticDecodeState:
    """The device's side: the cache and each slot's state, R slots of P positions and T tokens."""

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
        self.stop = torch.tensor(sorted(stop), device=device, dtype=torch.int64)
        self.cache = gpt2.new_cache(rows=rows, positions=positions, cross_positions=cross)
        self.columns = torch.arange(positions, device=device)
        self.open = torch.zeros(positions, device=device, dtype=gpt2.dtype)
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.limit = torch.ones(rows, dtype=torch.int64, device=device)
        self.active = torch.zeros(rows, dtype=torch.bool, device=device)
        self.sum_logprobs = torch.zeros(rows, dtype=torch.float64, device=device)
        self.num_generated = torch.zeros(rows, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(rows, tokens, dtype=torch.int64, device=device)
        # (R, V): tokens that a slot holds back, see `grounding`.
        vocabulary = gpt2.config.vocab_size
        self.denied = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device) if grounded else None
        self._steps: dict[int, GraphedCallable] = {}
        self.prefills: dict[tuple[int, int], tuple[GraphedCallable, _PrefillBuffers]] = {}

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
        cross_keys = None if cache.cross_keys is None else cache.cross_keys[:, :rows]
        cross_values = None if cache.cross_values is None else cache.cross_values[:, :rows]
        hidden = gpt2.run_blocks(
            x, cache.keys[:, :rows], cache.values[:, :rows], cross_keys, cross_values, 0, self.positions, False,
            length, mask,
        )  # fmt: skip
        logits = gpt2.logits(hidden[:, 0])
        chosen = greedy_tokens(logits if self.denied is None else logits.masked_fill(self.denied[:rows], -math.inf))
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
        lengths = [prompt.length for prompt in prompts]
        prefix = pad_prefixes([prompt.prefix for prompt in prompts])
        cross = None
        if prompts[0].cross is not None:
            cross = torch.stack([prompt.cross for prompt in prompts if prompt.cross is not None])
        denied = None
        if self.denied is not None:
            denied = torch.stack([prompt.denied for prompt in prompts if prompt.denied is not None])
            self.denied[torch.tensor(slots, device=denied.device)] = denied
        chosen, score, buffers = self._prefill(prefix, lengths, cross, denied)
        chosen, score = chosen.clone(), score.clone()
        if prompts[0].later_prefix is not None:
            later_prefix = pad_prefixes([prompt.later_prefix for prompt in prompts if prompt.later_prefix is not None])
            _, _, buffers = self._prefill(later_prefix, lengths, cross, denied)
        device = self.token.device
        where, length, limit = torch.tensor([slots, lengths, stop_criteria]).to(device, non_blocking=True)
        count, width = prefix.shape[:2]
        self.cache.keys[:, where, :, :width] = buffers.keys[:, :count]
        self.cache.values[:, where, :, :width] = buffers.values[:, :count]
        if buffers.cross_keys is not None and buffers.cross_values is not None:
            assert self.cache.cross_keys is not None and self.cache.cross_values is not None  # noqa: S101 - as scratch
            self.cache.cross_keys[:, where] = buffers.cross_keys[:, :count]
            self.cache.cross_values[:, where] = buffers.cross_values[:, :count]
        self.token[where] = chosen
        self.length[where] = length
        self.limit[where] = limit
        self.sum_logprobs[where] = score.double()
        self.num_generated[where] = 1
        self.tokens[where, 0] = chosen
        self.active[where] = ~self._stops(chosen) & (limit > 1)

    def _prefill(
        self, prefix: Tensor, lengths: list[int], cross: Tensor | None, denied: Tensor | None = None
    ) -> tuple[Tensor, Tensor, _PrefillBuffers]:
        """First tokens (J,), their log-probabilities (J,) and the keys and values they left behind."""
        count, width = prefix.shape[:2]
        size = bucket(count, self.rows)
        found = self.prefills.get((size, width))
        inputs = [_padded(prefix, size), _padded(torch.tensor(lengths).to(prefix.device), size, 1)]
        if cross is not None:
            inputs.append(_padded(cross, size))
        if denied is not None:
            inputs.append(_padded(denied, size))
        if found is None:
            buffers = _PrefillBuffers(self.gpt2, size, width, 0 if cross is None else cross.shape[1])
            prefill = buffers.prefill if cross is not None or denied is None else buffers.prefill_grounded
            found = GraphedCallable(prefill, inputs, self.gpt2.device), buffers
            self.prefills[size, width] = found
        replay, buffers = found
        chosen, score = replay(*inputs)
        return chosen[:count], score[:count], buffers

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

    def __init__(self, gpt2: GPT2, rows: int, width: int, cross: int) -> None:
        self._gpt2 = gpt2
        cache = gpt2.new_cache(rows=rows, positions=width, cross_positions=cross)
        self.keys, self.values = cache.keys, cache.values
        self.cross_keys, self.cross_values = cache.cross_keys, cache.cross_values
        self._rows = torch.arange(rows, device=gpt2.device)

    def prefill_grounded(self, prefix: Tensor, lengths: Tensor, denied: Tensor) -> tuple[Tensor, ...]:
        """As `prefill`, without the tokens that `denied` (J, V) holds back."""
        return self.prefill(prefix, lengths, denied=denied)

    def prefill(
        self, prefix: Tensor, lengths: Tensor, cross: Tensor | None = None, denied: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        gpt2 = self._gpt2
        if cross is not None and self.cross_keys is not None and self.cross_values is not None:
            gpt2.write_cross_kv(cross, self.cross_keys, self.cross_values)
        width = prefix.shape[1]
        x = prefix.to(gpt2.dtype) + gpt2.wpe.weight[:width]
        x = gpt2.run_blocks(x, self.keys, self.values, self.cross_keys, self.cross_values, 0, width, True, None, None)
        logits = gpt2.logits(x[self._rows, lengths - 1])
        chosen = greedy_tokens(logits if denied is None else logits.masked_fill(denied, -math.inf))
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

    def add(self, key: Key, prompt: Prompt) -> None:
        """Queue one caption; it joins at the next `step`."""
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
        grounded = prompt.denied is not None
        new = StaticDecodeState(
            self._gpt2, rows, positions, tokens, self.stop_criteria.stop_tokens, cross, grounded=grounded
        )
        if old is not None:
            _copy_state(new, old)
        self._slots = new
        return new


def _copy_state(new: StaticDecodeState, old: StaticDecodeState) -> None:
    # What was recorded for prefixes does not know the slots; what was recorded for steps holds the old ones.
    new.prefills = old.prefills
    old.drop_graphs()
    rows, positions = old.rows, old.positions
    for name in ("token", "length", "limit", "going", "total", "produced"):
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
