"""Beam search with ClipCap's length normalization; all prompts and their beams share one cache.

As in `generate_beam` of rmokady/CLIP_prefix_caption: candidates are ranked by their summed log-probability divided by
their length. A beam that reached the stop token keeps its sum and its length, and continues only with token 0 at no
cost; these tokens are cut off at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamcap.captioner.decoding.batch import StopCriteria
from streamcap.captioner.decoding.sampling import stack_suppressed, suppress_tokens
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import KVCache
from streamcap.captioner.models.prompt import Prompt, PromptBatch, prefill_prompts


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished beam."""

    tokens: list[int]
    logprob: float
    """Mean natural-log probability of the tokens."""
    passes: int
    """GPT-2 passes until all beams of its prompt had stopped."""


@dataclass(slots=True)
class _Beams:
    """The beams of all prompts; F prompts, K beams, S tokens so far."""

    tokens: Tensor
    """(F, K, S) int64."""
    scores: Tensor
    """(F, K) summed log-probabilities."""
    lengths: Tensor
    """(F, K) tokens up to the stop token, as float."""
    stopped: Tensor
    """(F, K) bool."""

    def grow(self, logprobs: Tensor, stop: Tensor) -> Tensor:
        """Add one token to every beam. logprobs: (F, K, V). Returns the previous index of each beam, (F, K)."""
        count, beams, vocabulary = logprobs.shape
        logprobs = logprobs.masked_fill(self.stopped.unsqueeze(-1), float("-inf"))
        logprobs[..., 0] = torch.where(self.stopped, 0.0, logprobs[..., 0])
        lengths = self.lengths + (~self.stopped).float()
        averages = (self.scores.unsqueeze(-1) + logprobs) / lengths.unsqueeze(-1)
        best, index = averages.view(count, -1).topk(beams, -1)
        source, token = index // vocabulary, index % vocabulary
        self.lengths = lengths.gather(1, source)
        self.scores = best * self.lengths
        kept = self.tokens.gather(1, source.unsqueeze(-1).expand(-1, -1, self.tokens.shape[2]))
        self.tokens = torch.cat((kept, token.unsqueeze(-1)), dim=2)
        self.stopped = self.stopped.gather(1, source) | torch.isin(token, stop)
        return source

    def best(self, row: int) -> Hypothesis:
        """The beam of prompt `row` with the best mean log-probability."""
        averages = self.scores[row] / self.lengths[row]
        winner = int(averages.argmax())
        length = int(self.lengths[row, winner])
        return Hypothesis(self.tokens[row, winner, :length].tolist(), float(averages[winner]), self.tokens.shape[2])


@torch.inference_mode()
def beam_search(gpt2: GPT2, prompts: Sequence[Prompt], stop_criteria: StopCriteria, beam_size: int) -> list[Hypothesis]:
    """The best hypothesis of each prompt, in order. Prompts may differ in length."""
    longest = max(prompt.length for prompt in prompts)
    max_tokens = max(1, min(stop_criteria.max_tokens, gpt2.config.n_positions - longest + 1))
    beams = min(beam_size, gpt2.config.vocab_size)
    cache, logits = _prefill(gpt2, prompts, beams, longest + max_tokens)
    suppressed = stack_suppressed([prompt.suppressed for prompt in prompts], logits)
    scores, first = suppress_tokens(logits.log_softmax(-1), suppressed).topk(beams, -1)
    stop = torch.tensor(sorted(stop_criteria.stop_tokens), device=gpt2.device, dtype=torch.int64)
    state = _Beams(first.unsqueeze(-1), scores, torch.ones_like(scores), torch.isin(first, stop))
    cache.repeat(beams)
    generated_from = min(prompt.length for prompt in prompts)
    unfinished = list(range(len(prompts)))
    finished: dict[int, Hypothesis] = {}
    for _ in range(max_tokens - 1):
        unfinished, state = _retire_finished(unfinished, state, cache, beams, finished)
        if not unfinished:
            break
        hidden = gpt2.step(state.tokens[..., -1].reshape(-1), cache)
        logprobs = gpt2.logits(hidden).log_softmax(-1).view(len(unfinished), beams, -1)
        logprobs = suppress_tokens(
            logprobs, None if suppressed is None else suppressed[unfinished].unsqueeze(1).expand_as(logprobs)
        )
        source = state.grow(logprobs, stop)
        base = torch.arange(len(unfinished), device=gpt2.device).unsqueeze(-1) * beams
        cache.reorder((base + source).reshape(-1), generated_from)
    for row, number in enumerate(unfinished):
        finished[number] = state.best(row)
    return [finished[number] for number in range(len(prompts))]


def _prefill(gpt2: GPT2, prompts: Sequence[Prompt], beams: int, positions: int) -> tuple[KVCache, Tensor]:
    """Prefill one row for each prompt. Returns the cache, large enough for all beams, and logits (F, V)."""
    batch = PromptBatch.of(prompts)
    cache = gpt2.new_cache(rows=len(prompts) * beams, positions=positions, cross_positions=batch.cross_positions)
    cache_slice = cache.append([prompt.length for prompt in prompts], batch.width)
    hidden = prefill_prompts(gpt2, batch, cache.context(cache_slice))
    return cache, gpt2.logits(hidden[:, 0])


def _retire_finished(
    unfinished: list[int], state: _Beams, cache: KVCache, beams: int, finished: dict[int, Hypothesis]
) -> tuple[list[int], _Beams]:
    """Move the prompts whose beams have all stopped to `finished`, and remove their rows."""
    done = state.stopped.all(-1).tolist()
    if not any(done):
        return unfinished, state
    for row, (number, stopped) in enumerate(zip(unfinished, done, strict=True)):
        if stopped:
            finished[number] = state.best(row)
    active = [row for row, stopped in enumerate(done) if not stopped]
    cache.keep([row * beams + beam for row in active for beam in range(beams)])
    index = torch.tensor(active, device=state.tokens.device, dtype=torch.int64)
    kept = _Beams(state.tokens[index], state.scores[index], state.lengths[index], state.stopped[index])
    return [unfinished[row] for row in active], kept
