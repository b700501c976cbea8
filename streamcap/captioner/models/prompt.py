"""Prompts: what the decoder reads before the first token, and how each family computes it from an embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamcap.captioner.models.attention_context import AttentionContext
from streamcap.captioner.models.gpt2 import GPT2


@dataclass(frozen=True, slots=True)
class Prompt:
    """One caption's prefix. P positions, E the decoder's width."""

    prefix: Tensor
    """(P, E) embeddings, without GPT-2's position embeddings."""
    later_prefix: Tensor | None = None
    """(P, E): the prefix for all tokens after the first, if it differs (VideoCaptionerWithClip)."""
    cross: Tensor | None = None
    """(N, C) encoder states for cross-attention."""
    tags: Tensor | None = None
    """(K,) probabilities of the image's tags, of checkpoints that have them."""
    suppressed: Tensor | None = None
    """(V,) uint8: tokens that the tags deny, see `suppress_tokens`."""

    @property
    def length(self) -> int:
        return self.prefix.shape[0]


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts of one model as tensors. R rows, P positions of the longest prefix, E the decoder's width."""

    prefix: Tensor
    """(R, P, E), padded with zeros on the right."""
    lengths: Tensor
    """(R,) int64 on the prefix's device."""
    later_prefix: Tensor | None = None
    """(R, P, E), see `Prompt`."""
    cross: Tensor | None = None
    """(R, N, C), see `Prompt`."""
    suppressed: Tensor | None = None
    """(R, V), see `Prompt`."""

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> PromptBatch:
        """Prompts of any length, in order."""
        prefix = _stack([prompt.prefix for prompt in prompts])
        lengths = torch.tensor([prompt.length for prompt in prompts]).to(prefix.device, non_blocking=True)
        later_prefix = [prompt.later_prefix for prompt in prompts if prompt.later_prefix is not None]
        cross = [prompt.cross for prompt in prompts if prompt.cross is not None]
        suppressed = [prompt.suppressed for prompt in prompts if prompt.suppressed is not None]
        return cls(
            prefix,
            lengths,
            _stack(later_prefix) if later_prefix else None,
            torch.stack(cross) if cross else None,
            torch.stack(suppressed) if suppressed else None,
        )

    @property
    def width(self) -> int:
        """P."""
        return self.prefix.shape[1]

    @property
    def cross_positions(self) -> int:
        """N; 0 without cross-attention."""
        return 0 if self.cross is None else self.cross.shape[1]


def _stack(prefixes: Sequence[Tensor]) -> Tensor:
    if len({len(prefix) for prefix in prefixes}) == 1:
        return torch.stack(list(prefixes))
    return torch.nn.utils.rnn.pad_sequence(list(prefixes), batch_first=True)


def prefill_prompts(
    gpt2: GPT2, prompts: PromptBatch, context: AttentionContext, following: Tensor | None = None
) -> Tensor:
    """Prefill prompts into rows of a cache; does not synchronize with the device.

    context: these rows, the first P + K positions, causal. following: (R, K) guessed tokens after each prefix; not for
    prompts with a `later_prefix`. Returns the hidden states of each row's last prefix position and of its K guesses,
    (R, 1 + K, E), before the head.
    """
    if prompts.cross is not None and context.cross_keys is not None and context.cross_values is not None:
        gpt2.write_cross_kv(prompts.cross, context.cross_keys, context.cross_values)
    hidden = gpt2.read(prompts.prefix, prompts.lengths, context, following)
    if prompts.later_prefix is not None:
        gpt2.read(prompts.later_prefix, prompts.lengths, context)
    return hidden


class Prompter(nn.Module, ABC):
    """Computes prompts from embeddings."""

    @abstractmethod
    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        """embeddings: (B, …), the vision encoder's output, on the decoder's device."""


class MappedPrefixPrompter(Prompter):
    """The mapping's output is the prefix (ClipCap, NYU, streamcap)."""

    def __init__(self, mapping: nn.Module) -> None:
        super().__init__()
        self.mapping = mapping

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        prefixes: Tensor = self.mapping(embeddings)
        return [Prompt(prefix) for prefix in prefixes]


class TwoPassPrefixPrompter(Prompter):
    """BOS and the mapping's output, with VideoCaptionerWithClip's two passes.

    Its `Net.forward` adds position embeddings before GPT-2 adds them as well, and its in-place `+=` changes the prefix:
    the first token is computed from the prefix with one explicit `wpe`, all later ones from the prefix with two.
    """

    def __init__(self, mapping: nn.Module, bos_token: int) -> None:
        super().__init__()
        self.mapping = mapping
        self.bos_token = bos_token

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        mapped: Tensor = self.mapping(embeddings)
        start = gpt2.embed_token(self.bos_token).expand(len(mapped), 1, -1)
        prefixes = torch.cat((start, mapped.to(start.dtype)), dim=1)
        positions = gpt2.wpe.weight[: prefixes.shape[1]]
        first = prefixes + positions
        return [Prompt(once, later_prefix=twice) for once, twice in zip(first, first + positions, strict=True)]


class StartTokenPrompter(Prompter):
    """One start token; the image enters through cross-attention (VisionEncoderDecoderModel)."""

    def __init__(self, start_token: int, projection: nn.Linear | None) -> None:
        super().__init__()
        self.start_token = start_token
        self.projection = projection

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        states = embeddings if self.projection is None else self.projection(embeddings)
        start = gpt2.embed_token(self.start_token).unsqueeze(0)
        return [Prompt(start, cross=row) for row in states]
