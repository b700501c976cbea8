"""A running batch: captions join at any step, each leaves when it is finished, one cache serves them all."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from streamcap.captioner.decoding.sampling import Sampler, hold_back, token_logprobs
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import KVCache
from streamcap.captioner.models.prompt import Prompt, pad_prefixes

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class StopCriteria:
    """When a caption ends."""

    max_tokens: int
    stop_tokens: frozenset[int]


@dataclass(slots=True)
class Request(Generic[Key]):
    """One caption on its way."""

    key: Key
    limit: int
    rng: random.Random | None
    tokens: list[int] = field(default_factory=list)
    sum_logprobs: float = 0.0
    denied: Tensor | None = None
    """(V,) bool: tokens that are held back, see `grounding`."""

    @property
    def logprob(self) -> float:
        """Mean natural-log probability of the tokens so far."""
        return self.sum_logprobs / len(self.tokens) if self.tokens else 0.0


class WaitingQueue(Generic[Key]):
    """Captions that have not begun, first come, first served."""

    def __init__(self, gpt2: GPT2, stop_criteria: StopCriteria) -> None:
        self._positions = gpt2.config.n_positions
        self._stop_criteria = stop_criteria
        self._entries: deque[tuple[Request[Key], Prompt]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, prompt: Prompt, rng: random.Random | None = None) -> None:
        room = self._positions - prompt.length + 1
        row = Request(key, max(1, min(self._stop_criteria.max_tokens, room)), rng, denied=prompt.denied)
        self._entries.append((row, prompt))

    def drop(self, key: Key) -> bool:
        """Forget a caption; false when there is none of this key."""
        for entry in self._entries:
            if entry[0].key == key:
                self._entries.remove(entry)
                return True
        return False

    def peek(self, count: int) -> list[tuple[Request[Key], Prompt]]:
        """The first `count`, which stay until `go`."""
        return [self._entries[number] for number in range(count)]

    def pop(self, count: int) -> None:
        """The first `count` have begun."""
        for _ in range(count):
            self._entries.popleft()


class ContinuousBatch(Generic[Key]):
    """Greedy or sampled decoding of captions that come and go.

    `add` queues; `step` first reads the prefixes of what waits (as far as `max_rows` allows), which gives those rows
    their first token, and then decodes one more token for every row. All calls come from one thread.
    """

    def __init__(self, gpt2: GPT2, sampler: Sampler, stop_criteria: StopCriteria, *, max_rows: int) -> None:
        self._gpt2 = gpt2
        self._sampler = sampler
        self._stop_criteria = stop_criteria
        self._max_rows = max_rows
        self._cache: KVCache | None = None
        self._rows: list[Request[Key]] = []
        self._waiting: WaitingQueue[Key] = WaitingQueue(gpt2, stop_criteria)
        self._added = 0

    @property
    def active(self) -> int:
        """Captions not finished, waiting ones included."""
        return len(self._rows) + len(self._waiting)

    @property
    def rows(self) -> list[Request[Key]]:
        """The captions being decoded, in no particular order."""
        return list(self._rows)

    def add(self, key: Key, prompt: Prompt) -> None:
        """Queue one caption; it joins at the next `step`."""
        self._waiting.add(key, prompt, self._sampler.make_rng(self._added))
        self._added += 1

    @torch.inference_mode()
    def drop(self, key: Key) -> bool:
        """Forget an unfinished caption; false when there is none of this key."""
        for number, row in enumerate(self._rows):
            if row.key == key:
                self._remove_row(number)
                return True
        return self._waiting.drop(key)

    @torch.inference_mode()
    def step(self) -> list[Request[Key]]:
        """Admit what waits, decode one token everywhere; returns the captions that are finished, in no order."""
        finished = self._admit()
        if not self._rows or self._cache is None:
            return finished
        last = torch.tensor([row.tokens[-1] for row in self._rows], device=self._gpt2.device)
        hidden = self._gpt2.step(last, self._cache)
        return finished + self._take(self._gpt2.logits(hidden), 0)

    def _admit(self) -> list[Request[Key]]:
        count = min(len(self._waiting), self._max_rows - len(self._rows))
        if count < 1:
            return []
        joining = self._waiting.peek(count)
        self._waiting.pop(count)
        prompts = [prompt for _, prompt in joining]
        first = len(self._rows)
        self._rows += [row for row, _ in joining]
        cache = self._reserve(joining)
        lengths = [prompt.length for prompt in prompts]
        cross = None
        if prompts[0].cross is not None:
            cross = torch.stack([prompt.cross for prompt in prompts if prompt.cross is not None])
        hidden, cache_slice = self._gpt2.prefill(
            pad_prefixes([prompt.prefix for prompt in prompts]), lengths, cache, cross=cross
        )
        finished = self._select(self._gpt2.logits(hidden), first)
        if prompts[0].later_prefix is not None:
            later = pad_prefixes([prompt.later_prefix for prompt in prompts if prompt.later_prefix is not None])
            self._gpt2.prefill(later, lengths, cache, cache_slice=cache_slice)
        return self._remove_finished(finished)

    def _reserve(self, joining: list[tuple[Request[Key], Prompt]]) -> KVCache:
        needed = max(prompt.length + row.limit for row, prompt in joining)
        rows = len(self._rows)
        if self._cache is None:
            cross = joining[0][1].cross
            self._cache = self._gpt2.new_cache(
                rows=rows, positions=needed, cross_positions=0 if cross is None else cross.shape[0]
            )
        elif rows > self._cache.capacity or needed > self._cache.positions:
            # Doubled, so that joining one by one does not copy the cache each time.
            self._cache.reserve(min(self._max_rows, max(rows, 2 * self._cache.capacity)), needed)
        return self._cache

    def _take(self, logits: Tensor, first: int) -> list[Request[Key]]:
        return self._remove_finished(self._select(logits, first))

    def _select(self, logits: Tensor, first: int) -> list[int]:
        """Give the rows from `first` on their next token; the numbers of those that are finished with it."""
        rows = self._rows[first:]
        choice = hold_back(logits, [row.denied for row in rows])
        tokens = self._sampler.sample(choice, [row.rng for row in rows])
        scores = token_logprobs(logits, tokens)
        finished = []
        for number, (row, token, score) in enumerate(zip(rows, tokens.tolist(), scores.tolist(), strict=True), first):
            row.tokens.append(token)
            row.sum_logprobs += score
            if token in self._stop_criteria.stop_tokens or len(row.tokens) >= row.limit:
                finished.append(number)
        return finished

    def _remove_finished(self, numbers: list[int]) -> list[Request[Key]]:
        gone = [self._rows[number] for number in numbers]
        for number in reversed(numbers):
            self._remove_row(number)
        return gone

    def _remove_row(self, number: int) -> None:
        if self._cache is not None:
            self._cache.remove(number)
        last = self._rows.pop()
        if number < len(self._rows):
            self._rows[number] = last
