"""Captions drawn by chance from the model in training, many an image, with the captioner's own decoder and cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.gpt2_weights import from_transformers


@dataclass(frozen=True, slots=True)
class Sample:
    """One caption."""

    tokens: list[int]
    """Without the stop token."""
    stopped: bool
    """Whether it came to its stop token; false: it was cut at the most tokens."""


def fast_copy(gpt: GPT2LMHeadModel) -> GPT2:
    """The weights of `gpt` as they are now, in the decoder that users run: no dropout, a cache written in place."""
    config: Any = gpt.config
    sizes = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_inner=config.n_inner or 4 * config.n_embd,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        activation_function=config.activation_function,
        layer_norm_epsilon=config.layer_norm_epsilon,
    )
    return from_transformers(sizes, gpt.state_dict())


def choose(logits: Tensor) -> Tensor:
    """One token for each row of logits (rows, vocabulary), by chance: (rows,) int64.

    By the inverse of the summed distribution, which on a CPU is ten times as quick as `torch.multinomial`.
    """
    total = logits.softmax(-1).cumsum(-1)
    # Scaled to the sum, which in floats is not quite 1.
    place = torch.searchsorted(total, torch.rand(len(logits), 1) * total[:, -1:], right=True)
    return place.squeeze(1).clamp_(max=logits.shape[1] - 1)


@torch.inference_mode()
def sample(
    gpt2: GPT2, prefix: Tensor, count: int, stop: int, longest: int, temperature: float = 1.0
) -> list[list[Sample]]:
    """`count` captions of each row of `prefix` (B, P, E), of at most `longest` tokens, the stop token included.

    Drawn from the whole distribution by torch's own generator, so that a gradient of their log-probability is that of
    the mean reward.
    """
    images, positions = prefix.shape[:2]
    longest = min(longest, gpt2.config.n_positions - positions + 1)
    cache = gpt2.new_cache(rows=images * count, positions=positions + longest)
    hidden, _ = gpt2.prefill(prefix, [positions] * images, cache)
    cache.repeat(count)
    logits = gpt2.logits(hidden).repeat_interleave(count, 0)
    rows = torch.arange(images * count)
    said: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(said)
    for place in range(longest):
        tokens = choose(logits / temperature)
        going = []
        for number, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
            if token == stop:
                ended[row] = True
            else:
                said[row].append(token)
                going.append(number)
        if not going or place == longest - 1:
            break
        if len(going) < len(rows):
            cache.keep(going)
            rows, tokens = rows[going], tokens[going]
        logits = gpt2.logits(gpt2.step(tokens, cache))
    return [
        [Sample(said[row], ended[row]) for row in range(image * count, (image + 1) * count)] for image in range(images)
    ]
