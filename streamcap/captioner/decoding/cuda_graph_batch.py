"""`CudaGraphBatch`: continuous batching on a GPU with CUDA graphs, for greedy decoding.

The passes are those of `StaticDecodeState`. The host synchronizes every `steps_per_sync` tokens, or after a pass that
verifies guesses; captions join and leave then.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch

from streamcap.captioner.decoding.batch import Request, StopCriteria, WaitingQueue
from streamcap.captioner.decoding.cuda_graphs import bucket
from streamcap.captioner.decoding.drafts import DraftSource
from streamcap.captioner.decoding.static_decode_state import (
    MAX_GUESSES,
    VERIFY_WIDTHS,
    StaticDecodeState,
    copy_state,
)
from streamcap.captioner.decoding.verifier import NO_PLAN, Plan, Verifier
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt

Key = TypeVar("Key", bound=Hashable)

STEPS_PER_SYNC = 4
POSITIONS_STEP = 32
"""The cache's positions are a multiple of this: attention kernels run faster, and fewer graphs are needed."""


class CudaGraphBatch(Generic[Key]):
    """`ContinuousBatch`'s interface, greedy only, on a `StaticDecodeState`. Not thread-safe.

    Where guesses are worth it, a step is one pass that verifies them; else it is `steps_per_sync` passes. A caption
    that ends between two synchronizations idles until the next one. The slots and their graphs are reused for the next
    captions.
    """

    def __init__(
        self,
        gpt2: GPT2,
        stop_criteria: StopCriteria,
        *,
        max_rows: int,
        steps_per_sync: int = STEPS_PER_SYNC,
        verifier: Verifier | None = None,
    ) -> None:
        """verifier: plans the guesses; None: drafts are ignored."""
        self._gpt2 = gpt2
        self.stop_criteria = stop_criteria
        self._max_rows = max_rows
        self._steps_per_sync = steps_per_sync
        self._verifier = verifier
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
        """Queue one caption; it joins at the next `step`."""
        self._waiting.add(key, prompt, draft=draft)

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
            return self._sync(rows, 1, NO_PLAN)
        plan = NO_PLAN if self._verifier is None else self._verifier.plan(list(self._rows.values()), MAX_GUESSES)
        width = next(width for width in (1, *VERIFY_WIDTHS) if width > plan.width)
        is_first = not self._slots.has_graph(rows, width)
        began = time.perf_counter()
        steps = 1
        if plan.width:
            guesses = {slot: guess.tokens for slot, guess in zip(self._rows, plan.guesses, strict=True)}
            self._slots.verify(rows, guesses, width)
        else:
            longest = max(row.limit - len(row.tokens) for row in self._rows.values())
            steps = min(self._steps_per_sync, longest)
            for _ in range(steps):
                self._slots.step(rows)
        decoding = {row.key: len(row.tokens) for row in self._rows.values()}
        finished = self._sync(rows, steps, plan)
        if self._verifier is not None and not is_first:
            gained = sum(len(row.tokens) - decoding[row.key] for row in (*self._rows.values(), *finished))
            seconds = (time.perf_counter() - began) / steps
            self._verifier.measure(
                rows * width, [max(1, gained // (steps * len(decoding)))] * len(decoding), seconds, plan.width
            )
        return finished

    def _sync(self, rows: int, steps: int, plan: Plan) -> list[Request[Key]]:
        """Read the slots after `steps` passes, of which a single one may have verified `plan`."""
        assert self._slots is not None  # noqa: S101 - there are rows in it
        active, num_generated, tokens, sums = self._slots.sync_to_host(rows)
        decoding = list(self._rows.values())
        gained: list[list[int]] = []
        finished: list[Request[Key]] = []
        passes = 0
        for slot, row in list(self._rows.items()):
            known = len(row.tokens)
            row.tokens = tokens[slot][: num_generated[slot]]
            row.sum_logprobs = sums[slot]
            gained.append(row.tokens[known:])
            ran = min(steps, len(row.tokens) - known)
            row.passes += ran
            passes += ran
            if not active[slot]:
                finished.append(self._rows.pop(slot))
        if self._verifier is not None:
            self._verifier.learn(decoding, plan, gained, passes)
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
        if self._verifier is not None:
            positions += VERIFY_WIDTHS[-1]  # guesses are written behind the last position of a caption
        rows = bucket(len(self._rows) + len(joining), self._max_rows)
        old = self._slots
        if old is not None:
            if rows <= old.rows and positions <= old.positions and tokens <= old.max_tokens:
                return old
            rows, positions = max(rows, old.rows), max(positions, old.positions)
            tokens = max(tokens, old.max_tokens)
        cross = 0 if prompt.cross is None else prompt.cross.shape[0]
        suppresses = prompt.suppressed is not None
        new = StaticDecodeState(
            self._gpt2, rows, positions, tokens, self.stop_criteria.stop_tokens, cross, suppresses=suppresses
        )
        if old is not None:
            copy_state(new, old)
        self._slots = new
        return new
