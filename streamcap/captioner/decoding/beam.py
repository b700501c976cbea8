"""Beam search with ClipCap's length rule, all frames and all their beams in one cache.

The rule is `generate_beam` of rmokady/CLIP_prefix_caption: candidates are ranked by their summed log-probability over
their own length; a beam that met the stop token keeps its sum and its length and may only be followed by token 0 at
no cost, which is cut off in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamcap.captioner.decoding.batch import StopCriteria
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import KVCache
from streamcap.captioner.models.prompt import Prompt, pad_prefixes


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished beam."""

    tokens: list[int]
    logprob: float
    """Mean natural-log probability of the tokens."""


@dataclass(slots=True)
class _Beams:
    """The state of all frames' beams; F frames, K beams, S tokens so far."""

    tokens: Tensor
    """(F, K, S) int64."""
    scores: Tensor
    """(F, K) summed log-probabilities."""
    lengths: Tensor
    """(F, K) tokens up to the stop token, as float."""
    stopped: Tensor
    """(F, K) bool."""

    def grow(self, logprobs: Tensor, stop: Tensor) -> Tensor:
        """One more token for every beam. logprobs: (F, K, V). Returns where each beam came from, (F, K)."""
        frames, beams, vocabulary = logprobs.shape
        logprobs = logprobs.masked_fill(self.stopped.unsqueeze(-1), float("-inf"))
        logprobs[..., 0] = torch.where(self.stopped, 0.0, logprobs[..., 0])
        lengths = self.lengths + (~self.stopped).float()
        averages = (self.scores.unsqueeze(-1) + logprobs) / lengths.unsqueeze(-1)
        best, index = averages.view(frames, -1).topk(beams, -1)
        source, token = index // vocabulary, index % vocabulary
        self.lengths = lengths.gather(1, source)
        self.scores = best * self.lengths
        kept = self.tokens.gather(1, source.unsqueeze(-1).expand(-1, -1, self.tokens.shape[2]))
        self.tokens = torch.cat((kept, token.unsqueeze(-1)), dim=2)
        self.stopped = self.stopped.gather(1, source) | torch.isin(token, stop)
        return source

    def best(self, frame: int) -> Hypothesis:
        """The beam of `frame` with the best mean log-probability."""
        averages = self.scores[frame] / self.lengths[frame]
        winner = int(averages.argmax())
        length = int(self.lengths[frame, winner])
        return Hypothesis(self.tokens[frame, winner, :length].tolist(), float(averages[winner]))


@torch.inference_mode()
def beam_search(gpt2: GPT2, prompts: Sequence[Prompt], stop_criteria: StopCriteria, beam_size: int) -> list[Hypothesis]:
    """The best hypothesis of each prompt, in order. Prompts may differ in length."""
    longest = max(prompt.length for prompt in prompts)
    max_tokens = max(1, min(stop_criteria.max_tokens, gpt2.config.n_positions - longest + 1))
    beams = min(beam_size, gpt2.config.vocab_size)
    cache, logits = _prefill(gpt2, prompts, beams, longest + max_tokens)
    denied = _denied(prompts, logits)
    scores, first = logits.log_softmax(-1).masked_fill(denied, float("-inf")).topk(beams, -1)
    stop = torch.tensor(sorted(stop_criteria.stop_tokens), device=gpt2.device, dtype=torch.int64)
    state = _Beams(first.unsqueeze(-1), scores, torch.ones_like(scores), torch.isin(first, stop))
    cache.repeat(beams)
    generated_from = min(prompt.length for prompt in prompts)
    frames = list(range(len(prompts)))
    found: dict[int, Hypothesis] = {}
    for _ in range(max_tokens - 1):
        frames, state = _retire_finished(frames, state, cache, beams, found)
        if not frames:
            break
        hidden = gpt2.step(state.tokens[..., -1].reshape(-1), cache)
        logprobs = gpt2.logits(hidden).log_softmax(-1).view(len(frames), beams, -1)
        logprobs = logprobs.masked_fill(denied[frames].unsqueeze(1), float("-inf"))
        source = state.grow(logprobs, stop)
        base = torch.arange(len(frames), device=gpt2.device).unsqueeze(-1) * beams
        cache.reorder((base + source).reshape(-1), generated_from)
    for number, frame in enumerate(frames):
        found[frame] = state.best(number)
    return [found[number] for number in range(len(prompts))]


def _denied(prompts: Sequence[Prompt], logits: Tensor) -> Tensor:
    """(F, V) bool: the tokens that are held back, see `grounding`."""
    nothing = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return torch.stack([nothing if prompt.denied is None else prompt.denied for prompt in prompts])


def _prefill(gpt2: GPT2, prompts: Sequence[Prompt], beams: int, positions: int) -> tuple[KVCache, Tensor]:
    """Prefill, one row for each prompt in a cache with room for its beams. Returns it and (F, V) logits."""
    cross = None
    if prompts[0].cross is not None:
        cross = torch.stack([prompt.cross for prompt in prompts if prompt.cross is not None])
    cache = gpt2.new_cache(
        rows=len(prompts) * beams, positions=positions, cross_positions=0 if cross is None else cross.shape[1]
    )
    lengths = [prompt.length for prompt in prompts]
    hidden, cache_slice = gpt2.prefill(pad_prefixes([prompt.prefix for prompt in prompts]), lengths, cache, cross=cross)
    logits = gpt2.logits(hidden)
    if prompts[0].later_prefix is not None:
        later = pad_prefixes([prompt.later_prefix for prompt in prompts if prompt.later_prefix is not None])
        gpt2.prefill(later, lengths, cache, cache_slice=cache_slice)
    return cache, logits


def _retire_finished(
    frames: list[int], state: _Beams, cache: KVCache, beams: int, found: dict[int, Hypothesis]
) -> tuple[list[int], _Beams]:
    """Take out the frames whose beams have all stopped, so that no further work is done for them."""
    done = state.stopped.all(-1).tolist()
    if not any(done):
        return frames, state
    for number, (frame, over) in enumerate(zip(frames, done, strict=True)):
        if over:
            found[frame] = state.best(number)
    active = [number for number, over in enumerate(done) if not over]
    cache.keep([number * beams + beam for number in active for beam in range(beams)])
    index = torch.tensor(active, device=state.tokens.device, dtype=torch.int64)
    kept = _Beams(state.tokens[index], state.scores[index], state.lengths[index], state.stopped[index])
    return [frames[number] for number in active], kept
