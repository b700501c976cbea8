"""What the decoder reads before its first word, and how each family makes it of an image's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamcap.captioner.models.gpt2 import GPT2


@dataclass(frozen=True, slots=True)
class Prompt:
    """One caption's prefix. P positions, E the decoder's width."""

    prefix: Tensor
    """(P, E) embeddings, without GPT-2's own position embeddings."""
    later_prefix: Tensor | None = None
    """(P, E): the prefix as every token after the first sees it, where that differs (VideoCaptionerWithClip)."""
    cross: Tensor | None = None
    """(N, C) encoder states for cross-attention."""
    tags: Tensor | None = None
    """(K,) probabilities of the image's tags, of checkpoints that have them."""
    denied: Tensor | None = None
    """(V,) bool: tokens that the tags deny, see `grounding`."""

    @property
    def length(self) -> int:
        return self.prefix.shape[0]


def pad_prefixes(prompts: Sequence[Tensor]) -> Tensor:
    """Prefixes of any length as one tensor (rows, longest, E), padded with zeros on the right."""
    if len({len(prompt) for prompt in prompts}) == 1:
        return torch.stack(list(prompts))
    return torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)


class Prompter(nn.Module):
    """Makes prompts of embeddings."""

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        """embeddings: (B, …) as the vision encoder gives them, float32 on the decoder's device."""
        raise TypeError(f"{type(self).__name__} makes no prompts")


class MappedPrefixPrompter(Prompter):
    """The mapping's output is the prefix (ClipCap, NYU, our own)."""

    def __init__(self, mapping: nn.Module) -> None:
        super().__init__()
        self.mapping = mapping

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        prefixes: Tensor = self.mapping(embeddings)
        return [Prompt(prefix) for prefix in prefixes]


class TwoPassPrefixPrompter(Prompter):
    """BOS and the mapping's output, as VideoCaptionerWithClip's loop feeds them.

    Its `Net.forward` adds position embeddings itself before GPT-2 does, and with an in-place `+=` that stays in the
    prefix: the first token comes from the prefix with one explicit `wpe`, every later one from two.
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
    """One start token; the image comes in by cross-attention (VisionEncoderDecoderModel)."""

    def __init__(self, start_token: int, projection: nn.Linear | None) -> None:
        super().__init__()
        self.start_token = start_token
        self.projection = projection

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        states = embeddings if self.projection is None else self.projection(embeddings)
        start = gpt2.embed_token(self.start_token).unsqueeze(0)
        return [Prompt(start, cross=row) for row in states]
