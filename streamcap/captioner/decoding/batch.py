"""`ContinuousBatch`: continuous batching. Captions join at any step and leave when finished; they share one cache."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from streamcap.captioner.decoding.drafts import DraftSource
from streamcap.captioner.decoding.sampling import Sampler, stack_suppressed, suppress_tokens, token_logprobs
from streamcap.captioner.decoding.verifier import NO_PLAN, Plan, Verifier, accepted
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import KVCache
from streamcap.captioner.models.prompt import Prompt, PromptBatch, prefill_prompts

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class StopCriteria:
    """When a caption ends."""

    max_tokens: int
    stop_tokens: frozenset[int]


@dataclass(slots=True)
class Request(Generic[Key]):
    """One unfinished caption."""

    key: Key
    limit: int
    rng: random.Random | None
    tokens: list[int] = field(default_factory=list)
    sum_logprobs: float = 0.0
    draft: DraftSource | None = None
    passes: int = 0
    """GPT-2 passes so far, including the prefill."""
    suppressed: Tensor | None = None
    """(V,) uint8, see `suppress_tokens`."""

    @property
    def logprob(self) -> float:
        """Mean natural-log probability of the tokens so far."""
        return self.sum_logprobs / len(self.tokens) if self.tokens else 0.0


class WaitingQueue(Generic[Key]):
    """Captions that have not started, in order of arrival."""

    def __init__(self, gpt2: GPT2, stop_criteria: StopCriteria) -> None:
        self._positions = gpt2.config.n_positions
        self._stop_criteria = stop_criteria
        self._entries: deque[tuple[Request[Key], Prompt]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, prompt: Prompt, rng: random.Random | None = None, draft: DraftSource | None = None) -> None:
        available = self._positions - prompt.length + 1
        limit = max(1, min(self._stop_criteria.max_tokens, available))
        self._entries.append((Request(key, limit, rng, draft=draft, suppressed=prompt.suppressed), prompt))

    def drop(self, key: Key) -> bool:
        """Drop a caption; False if there is none with this key."""
        for entry in self._entries:
            if entry[0].key == key:
                self._entries.remove(entry)
                return True
        return False

    def peek(self, count: int) -> list[tuple[Request[Key], Prompt]]:
        """The first `count` captions; they stay in the queue."""
        return [self._entries[number] for number in range(count)]

    def pop(self, count: int) -> None:
        """Remove the first `count` captions."""
        for _ in range(count):
            self._entries.popleft()


class ContinuousBatch(Generic[Key]):
    """Greedy or sampled decoding of captions that join and leave the batch.

    `add` queues a caption. `step` prefills waiting captions (up to `max_rows`), which gives them their first token, and
    then decodes one more token for every row. In a row with a draft, the same pass verifies guessed tokens; the row
    gains the accepted ones as well. Not thread-safe.
    """

    def __init__(
        self,
        gpt2: GPT2,
        sampler: Sampler,
        stop_criteria: StopCriteria,
        *,
        max_rows: int,
        verifier: Verifier | None = None,
    ) -> None:
        """verifier: plans the guesses; None: drafts are ignored. Only for greedy sampling."""
        self._gpt2 = gpt2
        self._sampler = sampler
        self._stop_criteria = stop_criteria
        self._max_rows = max_rows
        self._verifier = verifier
        self._cache: KVCache | None = None
        self._rows: list[Request[Key]] = []
        self._waiting: WaitingQueue[Key] = WaitingQueue(gpt2, stop_criteria)
        self._added = 0

    @property
    def active(self) -> int:
        """Unfinished captions, including waiting ones."""
        return len(self._rows) + len(self._waiting)

    @property
    def rows(self) -> list[Request[Key]]:
        """The captions in the batch, in no particular order."""
        return list(self._rows)

    def add(self, key: Key, prompt: Prompt, draft: DraftSource | None = None) -> None:
        """Queue one caption; it joins at the next `step`."""
        self._waiting.add(key, prompt, self._sampler.make_rng(self._added), draft)
        self._added += 1

    @torch.inference_mode()
    def drop(self, key: Key) -> bool:
        """Drop an unfinished caption; False if there is none with this key."""
        for number, row in enumerate(self._rows):
            if row.key == key:
                self._remove_row(number)
                return True
        return self._waiting.drop(key)

    @torch.inference_mode()
    def step(self) -> list[Request[Key]]:
        """Admit waiting captions, then one pass for every row. Returns the captions that finished, in any order."""
        finished = self._admit()
        if not self._rows or self._cache is None:
            return finished
        cache = self._cache
        began = time.thread_time()
        plan = self._plan(0, cache.positions - max(cache.lengths) - 1)
        fed = torch.tensor([[row.tokens[-1]] for row in self._rows], device=self._gpt2.device)
        if plan.width:
            fed = torch.cat((fed, plan.tensor(self._gpt2.device)), dim=1)
        gained, ended = self._take(self._gpt2.extend(fed, cache), plan, 0)
        cache.accept(gained)
        self._measure(fed.numel(), gained, began, plan)
        return finished + self._remove_finished(ended)

    def _admit(self) -> list[Request[Key]]:
        count = min(len(self._waiting), self._max_rows - len(self._rows))
        if count < 1:
            return []
        joining = self._waiting.peek(count)
        self._waiting.pop(count)
        prompts = [prompt for _, prompt in joining]
        first = len(self._rows)
        self._rows += [row for row, _ in joining]
        batch = PromptBatch.of(prompts)
        cache = self._reserve(joining, batch.cross_positions)
        lengths = [prompt.length for prompt in prompts]
        began = time.thread_time()
        plan = NO_PLAN if batch.later_prefix is not None else self._plan(first, cache.positions - batch.width)
        cache_slice = cache.append(lengths, batch.width + plan.width)
        following = plan.tensor(self._gpt2.device) if plan.width else None
        hidden = prefill_prompts(self._gpt2, batch, cache.context(cache_slice), following)
        gained, ended = self._take(hidden, plan, first)
        # The last token of each row is not in the cache yet.
        cache.accept([count - 1 for count in gained], first)
        if batch.later_prefix is None:  # with a later prefix the prefill is two passes, which would distort the fit
            self._measure(len(prompts) * (batch.width + plan.width), gained, began, plan)
        return self._remove_finished(ended)

    def _reserve(self, joining: list[tuple[Request[Key], Prompt]], cross_positions: int) -> KVCache:
        needed = max(prompt.length + row.limit for row, prompt in joining)
        rows = len(self._rows)
        if self._cache is None:
            self._cache = self._gpt2.new_cache(rows=rows, positions=needed, cross_positions=cross_positions)
        elif rows > self._cache.capacity or needed > self._cache.positions:
            # Double the capacity, so that captions that join one by one do not copy the cache each time.
            self._cache.reserve(min(self._max_rows, max(rows, 2 * self._cache.capacity)), needed)
        return self._cache

    def _plan(self, first: int, available: int) -> Plan:
        """Guesses for the rows from `first` on; the cache has `available` free positions."""
        if self._verifier is None or available < 1:
            return NO_PLAN
        return self._verifier.plan(self._rows[first:], available)

    def _measure(self, positions: int, gained: list[int], began: float, plan: Plan) -> None:
        # The thread's own time, as other programs would distort the fit.
        if self._verifier is not None:
            self._verifier.measure(positions, gained, time.thread_time() - began, plan.width)

    def _take(self, hidden: Tensor, plan: Plan, first: int) -> tuple[list[int], list[int]]:
        """Add the tokens of this pass to the rows from `first` on.

        hidden: (rows, 1 + K, width), K guessed tokens. Returns the number of tokens that each row gained, and the
        indexes of the rows that finished.
        """
        rows, stop = self._rows[first:], self._stop_criteria.stop_tokens
        logits = self._gpt2.logits(hidden.flatten(0, 1))
        positions = [row for row in rows for _ in range(1 + plan.width)]
        allowed = suppress_tokens(logits, stack_suppressed([row.suppressed for row in positions], logits))
        chosen = self._sampler.sample(allowed, [row.rng for row in positions])
        choices = chosen.view(len(rows), -1).tolist()
        if plan.width:
            gained = [
                accepted(guess.tokens, each, stop, row.limit - len(row.tokens))
                for row, guess, each in zip(rows, plan.guesses, choices, strict=True)
            ]
            kept = [number * (1 + plan.width) + step for number, each in enumerate(gained) for step in range(len(each))]
            if len(kept) < len(logits):  # a copy of the logits
                index = torch.tensor(kept, device=logits.device)
                logits, chosen = logits[index], chosen[index]
        else:
            gained = choices
        if self._verifier is not None:
            self._verifier.learn(rows, plan, gained)
        scores = iter(token_logprobs(logits, chosen).tolist())
        finished = []
        for number, (row, tokens) in enumerate(zip(rows, gained, strict=True), first):
            row.passes += 1
            row.tokens += tokens
            row.sum_logprobs += sum(next(scores) for _ in tokens)
            if tokens[-1] in stop or len(row.tokens) >= row.limit:
                finished.append(number)
        return [len(tokens) for tokens in gained], finished

    def _remove_finished(self, numbers: list[int]) -> list[Request[Key]]:
        finished = [self._rows[number] for number in numbers]
        for number in reversed(numbers):
            self._remove_row(number)
        return finished

    def _remove_row(self, number: int) -> None:
        if self._cache is not None:
            self._cache.remove(number)
        last = self._rows.pop()
        if number < len(self._rows):
            self._rows[number] = last
