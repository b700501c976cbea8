"""Which token comes next: one small class for each way of choosing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from streamcap.captioner.options import SearchOptions


class Sampler(Protocol):
    """Chooses one token for every row."""

    def sample(self, logits: Tensor, rngs: Sequence[random.Random | None]) -> Tensor:
        """logits: (rows, vocabulary) float32 → (rows,) int64. `rngs` holds each row's own source of chance."""
        ...

    def make_rng(self, number: int) -> random.Random | None:
        """The source of chance of the caption with this running number; None where nothing is drawn."""
        ...


class GreedySampler:
    """The most probable token."""

    def sample(self, logits: Tensor, rngs: Sequence[random.Random | None]) -> Tensor:
        return greedy_tokens(logits)

    def make_rng(self, number: int) -> random.Random | None:
        return None


class TopPSampler:
    """Temperature and nucleus sampling (Holtzman et al. 2020): of the sorted tokens, those whose predecessors' sum
    has not passed `top_p`. Each caption draws from its own seeded source, so that what it is batched with does not
    change it."""

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._seed = random.SystemRandom().getrandbits(64) if seed is None else seed

    def make_rng(self, number: int) -> random.Random | None:
        return random.Random(f"{self._seed}/{number}")

    def sample(self, logits: Tensor, rngs: Sequence[random.Random | None]) -> Tensor:
        # Shifted to a top logit of zero first, so that a tiny temperature cannot overflow into inf - inf.
        shifted = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        ordered, tokens = shifted.softmax(-1).sort(dim=-1, descending=True, stable=True)
        total = ordered.cumsum(-1)
        kept = torch.where(total - ordered < self._top_p, ordered, 0.0)
        kept[:, 0] = ordered[:, 0]
        total = kept.cumsum(-1)
        chance = torch.tensor([[0.0 if rng is None else rng.random()] for rng in rngs], device=logits.device)
        # Scaled below the sum, so that the last kept token is the furthest one that can be met.
        place = torch.searchsorted(total, chance * total[:, -1:], right=True)
        place = torch.minimum(place, (kept > 0).sum(-1, keepdim=True) - 1)
        return tokens.gather(1, place).squeeze(1)


def make_sampler(search: SearchOptions) -> Sampler:
    """The selector that `search` asks for; temperature 0 is greedy."""
    if search.temperature > 0:
        return TopPSampler(search.temperature, search.top_p, search.seed)
    return GreedySampler()


def greedy_tokens(logits: Tensor) -> Tensor:
    """The first of the greatest; (rows, vocabulary) → (rows,) int64."""
    return logits.argmax(-1)


def hold_back(logits: Tensor, denied: Sequence[Tensor | None]) -> Tensor:
    """Logits (rows, V) in which the tokens that each row's `denied` (V,) names cannot be chosen."""
    if all(row is None for row in denied):
        return logits
    nothing = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    mask = torch.stack([nothing if row is None else row for row in denied])
    return logits.masked_fill(mask, float("-inf"))


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Natural-log probability of `tokens` (rows,) under `logits` (rows, vocabulary): (rows,)."""
    return logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
