"""Samplers: greedy, and temperature with top-p."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from streamcap.captioner.options import SearchOptions

DENIED: Final = 1
CONTINUES: Final = 2
"""What `suppressed` says of a token: it may not be chosen; it can only continue a word. 0: neither."""

_ROWS_AT_ONCE: Final = 8
"""On a CPU the log-probabilities of so many rows stay in the cache."""


class Sampler(Protocol):
    """Chooses one token for every row."""

    def sample(self, logits: Tensor, rngs: Sequence[random.Random | None]) -> Tensor:
        """logits: (rows, vocabulary) float32 → (rows,) int64. rngs: one random generator for each row."""
        ...

    def make_rng(self, number: int) -> random.Random | None:
        """The random generator of caption `number`; None if sampling is deterministic."""
        ...


class GreedySampler:
    """The most probable token."""

    def sample(self, logits: Tensor, rngs: Sequence[random.Random | None]) -> Tensor:
        return greedy_tokens(logits)

    def make_rng(self, number: int) -> random.Random | None:
        return None


class TopPSampler:
    """Temperature and nucleus sampling (Holtzman et al. 2020).

    Draws from the most probable tokens whose probabilities add up to `top_p`. Each caption has a random generator of
    its own, so that its tokens do not depend on the batch.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._seed = random.SystemRandom().getrandbits(64) if seed is None else seed

    def make_rng(self, number: int) -> random.Random | None:
        return random.Random(f"{self._seed}/{number}")

    def sample(self, logits: Tensor, rngs: Sequence[random.Random | None]) -> Tensor:
        # Subtract the maximum before dividing, so that a tiny temperature does not overflow to inf - inf.
        shifted = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        ordered, tokens = shifted.softmax(-1).sort(dim=-1, descending=True, stable=True)
        total = ordered.cumsum(-1)
        kept = torch.where(total - ordered < self._top_p, ordered, 0.0)
        kept[:, 0] = ordered[:, 0]
        total = kept.cumsum(-1)
        draw = torch.tensor([[0.0 if rng is None else rng.random()] for rng in rngs], device=logits.device)
        # Rounding may put the draw at the total: clamp to the last kept token.
        index = torch.searchsorted(total, draw * total[:, -1:], right=True)
        index = torch.minimum(index, (kept > 0).sum(-1, keepdim=True) - 1)
        return tokens.gather(1, index).squeeze(1)


def make_sampler(search: SearchOptions) -> Sampler:
    """The sampler for `search`; temperature 0 is greedy."""
    if search.temperature > 0:
        return TopPSampler(search.temperature, search.top_p, search.seed)
    return GreedySampler()


def greedy_tokens(logits: Tensor) -> Tensor:
    """The first token with the largest logit; (rows, vocabulary) → (rows,) int64."""
    return logits.argmax(-1)


def suppress_tokens(logits: Tensor, suppressed: Tensor | None) -> Tensor:
    """Logits (..., V) without the tokens that `suppressed` (..., V) marks.

    DENIED tokens are never chosen. CONTINUES tokens are not chosen where the best token is a denied one: that token
    begins a word, so no piece of a word fits in its place.
    """
    if suppressed is None:
        return logits
    best_is_denied = suppressed.gather(-1, logits.argmax(-1, keepdim=True)) == DENIED
    return logits.masked_fill((suppressed == DENIED) | (best_is_denied & (suppressed == CONTINUES)), float("-inf"))


def stack_suppressed(rows: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """`suppressed` (V,) of each row as (rows, V), for logits `like` (..., V); None where no row has any."""
    if all(row is None for row in rows):
        return None
    nothing = torch.zeros(like.shape[-1], dtype=torch.uint8, device=like.device)
    return torch.stack([nothing if row is None else row for row in rows])


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Natural-log probability of `tokens` (rows,) under `logits` (rows, vocabulary): (rows,)."""
    if logits.device.type != "cpu" or len(logits) <= _ROWS_AT_ONCE:
        return logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    return torch.cat(
        [
            token_logprobs(*part)
            for part in zip(torch.split(logits, _ROWS_AT_ONCE), torch.split(tokens, _ROWS_AT_ONCE), strict=True)
        ]
    )
