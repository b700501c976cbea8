"""A running batch: captions join at any step, each leaves when it is finished, one cache serves them all."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from streamcap.captioner.cache import KVCache
from streamcap.captioner.gpt2 import GPT2
from streamcap.captioner.prompt import Prompt, stack
from streamcap.captioner.selection import Selector, log_probability

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a caption ends."""

    max_tokens: int
    stop_tokens: frozenset[int]


@dataclass(slots=True)
class Row(Generic[Key]):
    """One caption on its way."""

    key: Key
    limit: int
    draw: random.Random | None
    tokens: list[int] = field(default_factory=list)
    total_logprob: float = 0.0

    @property
    def logprob(self) -> float:
        """Mean natural-log probability of the tokens so far."""
        return self.total_logprob / len(self.tokens) if self.tokens else 0.0


class Waiting(Generic[Key]):
    """Captions that have not begun, first come, first served."""

    def __init__(self, gpt2: GPT2, limits: Limits) -> None:
        self._positions = gpt2.config.n_positions
        self._limits = limits
        self._entries: deque[tuple[Row[Key], Prompt]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, prompt: Prompt, draw: random.Random | None = None) -> None:
        room = self._positions - prompt.length + 1
        self._entries.append((Row(key, max(1, min(self._limits.max_tokens, room)), draw), prompt))

    def drop(self, key: Key) -> bool:
        """Forget a caption; false when there is none of this key."""
        for entry in self._entries:
            if entry[0].key == key:
                self._entries.remove(entry)
                return True
        return False

    def first(self, count: int) -> list[tuple[Row[Key], Prompt]]:
        """The first `count`, which stay until `go`."""
        return [self._entries[number] for number in range(count)]

    def go(self, count: int) -> None:
        """The first `count` have begun."""
        for _ in range(count):
            self._entries.popleft()


class RunningBatch(Generic[Key]):
    """Greedy or sampled decoding of captions that come and go.

    `add` queues; `step` first reads the prefixes of what waits (as far as `max_rows` allows), which gives those rows
    their first token, and then decodes one more token for every row. All calls come from one thread.
    """

    def __init__(self, gpt2: GPT2, selector: Selector, limits: Limits, *, max_rows: int) -> None:
        self._gpt2 = gpt2
        self._selector = selector
        self._limits = limits
        self._max_rows = max_rows
        self._cache: KVCache | None = None
        self._rows: list[Row[Key]] = []
        self._waiting: Waiting[Key] = Waiting(gpt2, limits)
        self._added = 0

    @property
    def active(self) -> int:
        """Captions not finished, waiting ones included."""
        return len(self._rows) + len(self._waiting)

    @property
    def rows(self) -> list[Row[Key]]:
        """The captions being decoded, in no particular order."""
        return list(self._rows)

    def add(self, key: Key, prompt: Prompt) -> None:
        """Queue one caption; it joins at the next `step`."""
        self._waiting.add(key, prompt, self._selector.source(self._added))
        self._added += 1

    @torch.inference_mode()
    def drop(self, key: Key) -> bool:
        """Forget an unfinished caption; false when there is none of this key."""
        for number, row in enumerate(self._rows):
            if row.key == key:
                self._free(number)
                return True
        return self._waiting.drop(key)

    @torch.inference_mode()
    def step(self) -> list[Row[Key]]:
        """Admit what waits, decode one token everywhere; returns the captions that are finished, in no order."""
        finished = self._admit()
        if not self._rows or self._cache is None:
            return finished
        last = torch.tensor([row.tokens[-1] for row in self._rows], device=self._gpt2.device)
        hidden = self._gpt2.step(last, self._cache)
        return finished + self._take(self._gpt2.logits(hidden), 0)

    def _admit(self) -> list[Row[Key]]:
        count = min(len(self._waiting), self._max_rows - len(self._rows))
        if count < 1:
            return []
        joining = self._waiting.first(count)
        self._waiting.go(count)
        prompts = [prompt for _, prompt in joining]
        first = len(self._rows)
        self._rows += [row for row, _ in joining]
        cache = self._reserve(joining)
        lengths = [prompt.length for prompt in prompts]
        cross = None
        if prompts[0].cross is not None:
            cross = torch.stack([prompt.cross for prompt in prompts if prompt.cross is not None])
        hidden, span = self._gpt2.prefill(stack([prompt.prefix for prompt in prompts]), lengths, cache, cross=cross)
        finished = self._select(self._gpt2.logits(hidden), first)
        if prompts[0].again is not None:
            later = stack([prompt.again for prompt in prompts if prompt.again is not None])
            self._gpt2.prefill(later, lengths, cache, span=span)
        return self._leave(finished)

    def _reserve(self, joining: list[tuple[Row[Key], Prompt]]) -> KVCache:
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

    def _take(self, logits: Tensor, first: int) -> list[Row[Key]]:
        return self._leave(self._select(logits, first))

    def _select(self, logits: Tensor, first: int) -> list[int]:
        """Give the rows from `first` on their next token; the numbers of those that are finished with it."""
        rows = self._rows[first:]
        tokens = self._selector.select(logits, [row.draw for row in rows])
        scores = log_probability(logits, tokens)
        finished = []
        for number, (row, token, score) in enumerate(zip(rows, tokens.tolist(), scores.tolist(), strict=True), first):
            row.tokens.append(token)
            row.total_logprob += score
            if token in self._limits.stop_tokens or len(row.tokens) >= row.limit:
                finished.append(number)
        return finished

    def _leave(self, numbers: list[int]) -> list[Row[Key]]:
        gone = [self._rows[number] for number in numbers]
        for number in reversed(numbers):
            self._free(number)
        return gone

    def _free(self, number: int) -> None:
        if self._cache is not None:
            self._cache.remove(number)
        last = self._rows.pop()
        if number < len(self._rows):
            self._rows[number] = last
