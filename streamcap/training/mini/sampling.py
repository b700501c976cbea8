"""Samples several captions of each image from the model in training, with the captioner's decoder and KV cache."""

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
    """One sampled caption."""

    tokens: list[int]
    """Without the stop token."""
    stopped: bool
    """Whether it ends with the stop token; False: it reached the maximum length."""


def fast_copy(gpt: GPT2LMHeadModel) -> GPT2:
    """A copy of `gpt` as the captioner's decoder: current weights, no dropout, a preallocated KV cache."""
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
    """Sample one token for each row of logits (rows, vocabulary): (rows,) int64.

    Inverse transform sampling: on a CPU it takes a tenth of the time of `torch.multinomial`.
    """
    total = logits.softmax(-1).cumsum(-1)
    # Scaled by the sum, which rounding keeps from being exactly 1.
    place = torch.searchsorted(total, torch.rand(len(logits), 1) * total[:, -1:], right=True)
    return place.squeeze(1).clamp_(max=logits.shape[1] - 1)


@torch.inference_mode()
def sample(
    gpt2: GPT2, prefix: Tensor, count: int, stop: int, longest: int, temperature: float = 1.0
) -> list[list[Sample]]:
    """Sample `count` captions for each row of `prefix` (B, P, E): a list of `count` captions by row.

    longest: maximum number of tokens, the stop token included. Samples come from the full distribution, without top-k
    or top-p: only then does the gradient of their log-probability estimate that of the expected reward.
    """
    images, positions = prefix.shape[:2]
    longest = min(longest, gpt2.config.n_positions - positions + 1)
    cache = gpt2.new_cache(rows=images * count, positions=positions + longest)
    hidden, _ = gpt2.prefill(prefix, [positions] * images, cache)
    cache.repeat(count)
    logits = gpt2.logits(hidden).repeat_interleave(count, 0)
    rows = torch.arange(images * count)
    captions: list[list[int]] = [[] for _ in rows]
    stopped = [False] * len(captions)
    for place in range(longest):
        tokens = choose(logits / temperature)
        active = []
        for number, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
            if token == stop:
                stopped[row] = True
            else:
                captions[row].append(token)
                active.append(number)
        if not active or place == longest - 1:
            break
        if len(active) < len(rows):
            cache.keep(active)
            rows, tokens = rows[active], tokens[active]
        logits = gpt2.logits(gpt2.step(tokens, cache))
    return [
        [Sample(captions[row], stopped[row]) for row in range(image * count, (image + 1) * count)]
        for image in range(images)
    ]
