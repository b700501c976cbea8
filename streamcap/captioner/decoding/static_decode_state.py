"""`StaticDecodeState`: what a batch on a GPU keeps there, in tensors of fixed shapes at fixed addresses.

A step is embedding, layers, head, choice of the token and stop test, all on the device, and one graph replay (see
`cuda_graphs`). `verify` checks guessed tokens in one pass and accepts them on the device, too. Without a GPU the same
functions are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, bucket
from streamcap.captioner.decoding.sampling import greedy_tokens, suppress_tokens, token_logprobs
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import CacheSlice, KVCache
from streamcap.captioner.models.prompt import Prompt, PromptBatch, prefill_prompts

VERIFY_WIDTHS = (4, 8, 16)
"""Positions in one pass that verifies guesses: the newest token and 3, 7 or 15 guesses. Each is a graph."""
MAX_GUESSES = VERIFY_WIDTHS[-1] - 1


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
        suppresses: bool = False,
    ) -> None:
        """cross: encoder states of a row, 0 without cross-attention. suppresses: prompts suppress tokens."""
        device = gpt2.device
        self.gpt2 = gpt2
        self.positions = positions
        self.stop = torch.tensor(sorted(stop), device=device, dtype=torch.int64)  # (stop tokens,)
        self.cache = gpt2.new_cache(rows=rows, positions=positions, cross_positions=cross)  # (layers, R, heads, P, …)
        self.cache.reserve(rows, positions)  # which may be more than GPT-2 has, for guesses
        self.columns = torch.arange(positions, device=device)  # (P,)
        self.open = torch.zeros(positions, device=device, dtype=gpt2.dtype)  # (P,) a mask that hides nothing
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) newest token, not yet in the cache
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) positions used in the cache
        self.limit = torch.ones(rows, dtype=torch.int64, device=device)  # (R,) limit of a caption's tokens
        self.active = torch.zeros(rows, dtype=torch.bool, device=device)  # (R,) slots that are still decoding
        self.sum_logprobs = torch.zeros(rows, dtype=torch.float64, device=device)  # (R,) sum of log-probabilities
        self.num_generated = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) tokens so far
        # (R, T + MAX_GUESSES): a pass writes all tokens that it may accept; `num_generated` says which are valid.
        self.tokens = torch.zeros(rows, tokens + MAX_GUESSES, dtype=torch.int64, device=device)
        self.guess = torch.zeros(rows, MAX_GUESSES, dtype=torch.int64, device=device)
        self.num_guessed = torch.zeros(rows, dtype=torch.int64, device=device)  # (R,) valid tokens of `guess`
        suppressed = torch.zeros(rows, gpt2.config.vocab_size, dtype=torch.uint8, device=device) if suppresses else None
        self.suppressed = suppressed  # (R, V), see `Prompt`
        self._graphs: dict[tuple[int, int], GraphedCallable] = {}
        """By rows and positions a row: steps, and passes that verify guesses."""
        self.prefills: dict[tuple[int, int], tuple[GraphedCallable, KVCache]] = {}
        """By rows and positions: the graph, and the cache that it writes."""

    @property
    def rows(self) -> int:
        return len(self.token)

    @property
    def max_tokens(self) -> int:
        """T, the tokens that a slot has room for."""
        return self.tokens.shape[1] - MAX_GUESSES

    def step(self, rows: int) -> None:
        """One more token in the active slots of [0, `rows`); the others do not change."""
        self._replay(rows, 1, lambda: self._step(rows))

    def verify(self, rows: int, guesses: dict[int, Sequence[int]], width: int) -> None:
        """One pass over `width` positions of VERIFY_WIDTHS: the active slots of [0, `rows`) gain 1 to `width` tokens.

        guesses: for a slot the tokens that may follow its newest one, at most `width` - 1.
        """
        table = torch.zeros(rows, width, dtype=torch.int64)  # guesses, then their number
        for slot, tokens in guesses.items():
            table[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            table[slot, -1] = len(tokens)
        on_device = table.to(self.token.device, non_blocking=True)
        self.guess[:rows, : width - 1].copy_(on_device[:, :-1])
        self.num_guessed[:rows].copy_(on_device[:, -1])
        self._replay(rows, width, lambda: self._verify(rows, width))

    def has_graph(self, rows: int, width: int) -> bool:
        """Whether this pass has run before; the first time takes longer."""
        return (rows, width) in self._graphs

    def _replay(self, rows: int, width: int, call: Callable[[], tuple[Tensor, ...]]) -> None:
        replay = self._graphs.get((rows, width))
        if replay is None:
            # Warm-up and capture run the pass as well: restore the state afterwards.
            state = [self.token, self.length, self.active, self.sum_logprobs, self.num_generated, self.tokens]
            saved = [tensor.clone() for tensor in state]
            replay = self._graphs[rows, width] = GraphedCallable(call, (), self.gpt2.device)
            for tensor, before in zip(state, saved, strict=True):
                tensor.copy_(before)
        replay()

    def drop_graphs(self) -> None:
        """Drop the captured passes: their reference cycle keeps the cache in memory until garbage collection."""
        self._graphs.clear()

    def _step(self, rows: int) -> tuple[Tensor, ...]:
        length, active, num_generated = self.length[:rows], self.active[:rows], self.num_generated[:rows]
        chosen, scores = (each.squeeze(1) for each in self._run(self.token[:rows].unsqueeze(1)))
        index = num_generated.clamp(max=self.tokens.shape[1] - 1).unsqueeze(1)
        updated = torch.where(active, chosen, self.tokens[:rows].gather(1, index).squeeze(1))
        self.tokens[:rows].scatter_(1, index, updated.unsqueeze(1))
        self.sum_logprobs[:rows] += torch.where(active, scores, 0.0)
        num_generated += active
        self.token[:rows] = chosen
        # The length of a finished slot does not grow, so that its writes stay inside the cache.
        active &= ~(self._stops(chosen) | (num_generated >= self.limit[:rows]))
        length += active
        return ()

    def _verify(self, rows: int, width: int) -> tuple[Tensor, ...]:
        length, active, num_generated = self.length[:rows], self.active[:rows], self.num_generated[:rows]
        guess, token = self.guess[:rows, : width - 1], self.token[:rows]
        chosen, scores = self._run(torch.cat((token.unsqueeze(1), guess), dim=1))  # (rows, width)
        offsets = self.columns[:width]
        # Choice i + 1 counts if guess i is the choice before it, if that was no stop token, and within the limit.
        right = (chosen[:, :-1] == guess) & (offsets[:-1] < self.num_guessed[:rows].unsqueeze(1))
        within = num_generated.unsqueeze(1) + offsets[1:] < self.limit[:rows].unsqueeze(1)
        counts = (right & within & ~self._stops(chosen[:, :-1])).long().cumprod(1)
        kept = torch.cat((torch.ones_like(token).unsqueeze(1), counts), dim=1).bool() & active.unsqueeze(1)
        gained = kept.sum(1)
        index = (num_generated.unsqueeze(1) + offsets).clamp(max=self.tokens.shape[1] - 1)
        self.tokens[:rows].scatter_(1, index, torch.where(kept, chosen, self.tokens[:rows].gather(1, index)))
        self.sum_logprobs[:rows] += torch.where(kept, scores, 0.0).sum(1)
        num_generated += gained
        newest = chosen.gather(1, (gained - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        token.copy_(torch.where(active, newest, token))
        active &= ~(self._stops(newest) | (num_generated >= self.limit[:rows]))
        length += gained * active
        return ()

    def _run(self, fed: Tensor) -> tuple[Tensor, Tensor]:
        """GPT-2 over the tokens `fed` (rows, S), which follow those in the cache.

        Returns the most probable next token of each position and its log-probability, float64, both (rows, S).
        """
        rows, steps = fed.shape
        fused = self.gpt2.fused_step
        if fused is not None and rows * steps <= fused.max_queries:
            chosen, scores, logits = fused(fed, self.length[:rows], self.cache)
            if self.suppressed is None:
                return chosen, scores
        else:
            logits = self.logits(fed)
        suppressed = None if self.suppressed is None else self.suppressed[:rows].unsqueeze(1).expand(-1, steps, -1)
        chosen = greedy_tokens(suppress_tokens(logits, suppressed))
        scores = token_logprobs(logits.flatten(0, 1), chosen.flatten()).double()
        return chosen, scores.view(rows, steps)

    def logits(self, fed: Tensor) -> Tensor:
        """The logits, float32 (rows, S, V), after the tokens `fed` (rows, S), on torch's kernels; extends the cache."""
        gpt2 = self.gpt2
        rows, steps = fed.shape
        positions = self.length[:rows].unsqueeze(1) + self.columns[:steps]
        # An additive mask: attention would convert a boolean one again in every layer.
        hidden_columns = self.columns > positions.unsqueeze(2)
        mask = self.open.masked_fill(hidden_columns, -math.inf).unsqueeze(1)  # (rows, 1, S, P)
        # Guesses may lie beyond GPT-2's last position; they are then not accepted.
        known = positions if steps == 1 else positions.clamp(max=gpt2.config.n_positions - 1)
        x = gpt2.wte(fed) + gpt2.token_position_weight * gpt2.wpe(known)
        cache_slice = CacheSlice(slice(0, rows), 0, self.positions, positions=positions, mask=mask)
        hidden = gpt2.backend.run_layers(x, self.cache.context(cache_slice))
        return gpt2.logits(hidden.flatten(0, 1)).view(rows, steps, -1)

    def _stops(self, tokens: Tensor) -> Tensor:
        # Not torch.isin, which may sort and synchronize with the host.
        return (tokens.unsqueeze(-1) == self.stop).any(-1)

    def admit(self, slots: list[int], prompts: list[Prompt], limits: list[int]) -> None:
        """Prefill prompts into `slots`, which gives each its first token. limits: maximum tokens of each caption."""
        batch = PromptBatch.of(prompts)
        if self.suppressed is not None and batch.suppressed is not None:
            self.suppressed[torch.tensor(slots, device=batch.suppressed.device)] = batch.suppressed
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
        optional = (prompts.later_prefix, prompts.cross, prompts.suppressed)
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
        table = torch.cat((torch.stack(columns, dim=1), self.tokens[:rows, : self.max_tokens]), dim=1).cpu()
        sums = table[:, 2].contiguous().view(torch.float64)
        active = table[:, 0].bool()
        return active.tolist(), table[:, 1].tolist(), table[:, 3:].tolist(), sums.tolist()


class _PrefillBuffers:
    """The cache that one prefill of a fixed shape writes, before it is copied into slots."""

    def __init__(self, gpt2: GPT2, rows: int, like: PromptBatch) -> None:
        self._gpt2 = gpt2
        self._has = tuple(part is not None for part in (like.later_prefix, like.cross, like.suppressed))
        self.cache = gpt2.new_cache(rows=rows, positions=like.width, cross_positions=like.cross_positions)
        self._cache_slice = CacheSlice(slice(0, rows), 0, like.width, causal=True)

    def prefill(self, prefix: Tensor, lengths: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """more: `later_prefix`, `cross` and `suppressed`, if the prompts have them."""
        rest = iter(more)
        later_prefix, cross, suppressed = (next(rest) if has else None for has in self._has)
        hidden = prefill_prompts(
            self._gpt2, PromptBatch(prefix, lengths, later_prefix, cross), self.cache.context(self._cache_slice)
        )
        logits = self._gpt2.logits(hidden[:, 0])
        chosen = greedy_tokens(suppress_tokens(logits, suppressed))
        return chosen, token_logprobs(logits, chosen)


def _padded(rows: Tensor, size: int, fill: int = 0) -> Tensor:
    if len(rows) == size:
        return rows
    return torch.cat((rows, rows.new_full((size - len(rows), *rows.shape[1:]), fill)))


def copy_state(new: StaticDecodeState, old: StaticDecodeState) -> None:
    """Continue the slots of `old` in `new`, which is at least as large."""
    # Prefill graphs do not depend on the slots and stay valid; step graphs refer to the old ones.
    new.prefills = old.prefills
    old.drop_graphs()
    rows, positions = old.rows, old.positions
    for name in ("token", "length", "limit", "active", "sum_logprobs", "num_generated"):
        getattr(new, name)[:rows] = getattr(old, name)
    if new.suppressed is not None and old.suppressed is not None:
        new.suppressed[:rows] = old.suppressed
    new.tokens[:rows, : old.max_tokens] = old.tokens[:, : old.max_tokens]
    new.cache.keys[:, :rows, :, :positions] = old.cache.keys
    new.cache.values[:, :rows, :, :positions] = old.cache.values
    if new.cache.cross_keys is not None and new.cache.cross_values is not None:
        assert old.cache.cross_keys is not None and old.cache.cross_values is not None  # noqa: S101 - of one model
        new.cache.cross_keys[:, :rows] = old.cache.cross_keys
        new.cache.cross_values[:, :rows] = old.cache.cross_values
