"""`ContinuousDecoder`: continuous batching for `streamcap caption`.

One decoder serves all batches of a file, so that a seed gives the same captions for any batch size. The live engine
decodes whole batches instead, which is faster on a CPU (see docs/speed.md).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from streamcap.captioner.decoding.batch import ContinuousBatch, Request
from streamcap.captioner.decoding.batch_limit import BatchLimit
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.models.prompt import Prompt
from streamcap.captioner.result import Result

Key = TypeVar("Key", bound=Hashable)


class ContinuousDecoder(Generic[Key]):
    """Captions join the batch at any step and leave it when they are finished. Made by `Captioner.decoder`.

    When memory runs out, all unfinished captions restart in smaller batches.

    Parameters:
        make_prompt: the prompt of one row of `encode`'s output.
        new_batch: an empty batch for captions whose prompt is as long as the one given, of at most so many rows.
        make_result: the result of a finished caption: tokens, mean log-probability, passes and prompt.
    """

    def __init__(
        self,
        make_prompt: Callable[[Tensor], Prompt],
        new_batch: Callable[[Prompt, int], ContinuousBatch[Any] | CudaGraphBatch[Any]],
        make_result: Callable[[list[int], float, int, Prompt], Result],
        batch_limit: BatchLimit,
    ) -> None:
        self._make_prompt = make_prompt
        self._new_batch = new_batch
        self._make_result = make_result
        self._batch_limit = batch_limit
        self._unfinished: dict[Key, Prompt] = {}
        self._batch: ContinuousBatch[Key] | CudaGraphBatch[Key] | None = None

    @property
    def active(self) -> int:
        """Unfinished captions, including waiting ones."""
        return len(self._unfinished)

    def add(self, key: Key, embedding: Tensor) -> None:
        """Queue one caption, given one row of `encode`'s output; it joins at the next `step`."""
        with torch.inference_mode():
            prompt = self._make_prompt(embedding)
        if self._batch is None:
            self._batch = self._new_batch(prompt, self._batch_limit.max_rows)
        self._batch.add(key, prompt)
        self._unfinished[key] = prompt

    def drop(self, key: Key) -> bool:
        """Drop an unfinished caption; False if there is none with this key."""
        if self._batch is not None:
            self._batch.drop(key)
        return self._unfinished.pop(key, None) is not None

    def step(self) -> list[tuple[Key, Result]]:
        """Decode one more token of every caption. Returns the captions that finished, in no particular order."""
        done = self._batch_limit.run(self.active, self._step) if self._unfinished else []
        finished = [(row, self._unfinished.pop(row.key)) for row in done]
        return [(row.key, self._make_result(row.tokens, row.logprob, row.passes, prompt)) for row, prompt in finished]

    def _step(self, max_rows: int) -> list[Request[Key]]:
        batch, self._batch = self._batch, None
        if batch is None:
            batch = self._new_batch(next(iter(self._unfinished.values())), max_rows)
            for key, prompt in self._unfinished.items():
                batch.add(key, prompt)
        done = batch.step()
        # Only now: after a failure the next step starts a new batch.
        self._batch = batch
        return done
