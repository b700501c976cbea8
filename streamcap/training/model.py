"""The training model: computes a prefix from an image, and the loss of all its captions in one packed GPT-2 pass.

The captions of an image share its prefix. They follow it in one row; each attends to the prefix and to itself only,
and its positions start at the end of the prefix. Five captions in one row cost about half as much as five rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel


@dataclass(frozen=True, slots=True)
class Packed:
    """Captions of B images behind prefixes of P positions; S positions per row in total, M tokens to predict."""

    tokens: Tensor
    """(B, S - P) token ids; padding is 0 and masked."""
    positions: Tensor
    """(B, S) position ids: the prefix starts at 0, every caption at P."""
    visible: Tensor
    """(B, 1, S, S) bool: whether query position (row) attends to key position (column)."""
    sources: Tensor
    """(M,) indices of the predicting hidden states, flattened to B * S."""
    targets: Tensor
    """(M,) the token to predict from each source; a caption that was not truncated ends with the stop token."""
    owners: Tensor
    """(M,) the index of each target's caption, counted through the whole batch."""

    def to(self, device: torch.device) -> Packed:
        return Packed(*(getattr(self, name).to(device) for name in self.__slots__))


def pack(captions: Sequence[Sequence[Sequence[int]]], prefix: int, stop: int, max_tokens: int | None = None) -> Packed:
    """Place each image's captions (token ids without the stop token) behind a prefix of `prefix` positions.

    max_tokens: a caption of this length counts as truncated, so no stop token is predicted after it.
    """
    rows_of_captions = [[_split_last(caption, stop, max_tokens) for caption in several] for several in captions]
    length = prefix + max(sum(len(inputs) for inputs, _ in several) for several in rows_of_captions)
    rows = len(captions)
    tokens = torch.zeros(rows, length - prefix, dtype=torch.long)
    positions = torch.zeros(rows, length, dtype=torch.long)
    positions[:, :prefix] = torch.arange(prefix)
    segment = torch.full((rows, length), -1, dtype=torch.long)  # 0: prefix; 1, 2, ...: captions; -1: padding
    segment[:, :prefix] = 0
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    count = 0
    for row, several in enumerate(rows_of_captions):
        start = prefix
        for number, (inputs, last) in enumerate(several):
            end = start + len(inputs)
            tokens[row, start - prefix : end - prefix] = torch.tensor(inputs, dtype=torch.long)
            positions[row, start:end] = torch.arange(prefix, prefix + len(inputs))
            segment[row, start:end] = number + 1
            base = row * length
            sources += [base + prefix - 1, *range(base + start, base + end)]
            targets += [*inputs, last]
            owners += [count] * (len(inputs) + 1)
            count += 1
            start = end
    order = torch.arange(length)
    causal = order[:, None] >= order[None, :]
    same = segment[:, :, None] == segment[:, None, :]
    visible = causal & (same | (segment[:, None, :] == 0)) | (order[:, None] == order[None, :])
    return Packed(
        tokens, positions, visible[:, None], torch.tensor(sources), torch.tensor(targets), torch.tensor(owners)
    )


def _split_last(caption: Sequence[int], stop: int, max_tokens: int | None) -> tuple[Sequence[int], int]:
    """GPT-2's input tokens of a caption, and the last token to predict."""
    return (caption[:-1], caption[-1]) if max_tokens is not None and len(caption) >= max_tokens else (caption, stop)


def packed_logits(gpt: GPT2LMHeadModel, prefix: Tensor, packed: Packed, *, two_pass: bool = False) -> Tensor:
    """Logits (M, vocabulary) that predict `packed.targets`, given prefixes (B, P, E).

    two_pass: as VideoCaptionerWithClip runs GPT-2 (see `captioner.models.prompt.TwoPassPrefixPrompter`). The first
    token of a caption is predicted from a prefix with one explicit position embedding; later tokens from a prefix with
    two and tokens with one.
    """
    hidden = _hidden(gpt, prefix, packed, two_pass)
    if two_pass:
        length, last = packed.positions.shape[1], prefix.shape[1] - 1
        first = gpt.transformer(inputs_embeds=prefix + gpt.transformer.wpe.weight[: last + 1]).last_hidden_state[:, -1]
        opening = packed.sources % length == last
        hidden = torch.where(opening[:, None], first[packed.sources // length], hidden)
    logits: Tensor = gpt.lm_head(hidden)
    return logits


def _hidden(gpt: GPT2LMHeadModel, prefix: Tensor, packed: Packed, two_pass: bool) -> Tensor:
    """The last hidden states (M, E) at `packed.sources`."""
    embedded = gpt.transformer.wte(packed.tokens).to(prefix.dtype)
    if two_pass:
        positions = gpt.transformer.wpe(packed.positions).to(prefix.dtype)
        length = prefix.shape[1]
        prefix, embedded = prefix + 2 * positions[:, :length], embedded + positions[:, length:]
    # GPT-2 adds a four-dimensional mask to the attention scores, so it must be additive, not boolean.
    mask = torch.zeros(packed.visible.shape, dtype=prefix.dtype, device=prefix.device)
    mask = mask.masked_fill(~packed.visible, torch.finfo(prefix.dtype).min)
    out = gpt.transformer(
        inputs_embeds=torch.cat((prefix, embedded), 1), attention_mask=mask, position_ids=packed.positions
    )
    hidden: Tensor = out.last_hidden_state.flatten(0, 1)[packed.sources]
    return hidden


class CaptionModel(nn.Module):
    """vision → mapping → GPT-2; `vision` is None if the inputs are embeddings."""

    def __init__(
        self, vision: nn.Module | None, mapping: nn.Module, gpt: GPT2LMHeadModel, *, two_pass: bool = False
    ) -> None:
        super().__init__()
        self.vision = vision
        self.mapping = mapping
        self.gpt = gpt
        self.two_pass = two_pass

    def prefix(self, x: Tensor) -> Tensor:
        """`x`: pixels (B, 3, H, W), or the mapping's input embeddings. Returns (B, P, E); a two-pass model has the
        embedding of the start token first, so it returns (B, 1 + P, E)."""
        y: Tensor = self.mapping(x if self.vision is None else self.vision(x))
        if self.two_pass:
            start = self.gpt.transformer.wte.weight[self.gpt.config.bos_token_id].expand(len(y), 1, -1)
            y = torch.cat((start.to(y.dtype), y), 1)
        return y

    def forward(self, x: Tensor, packed: Packed, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy per target token, nats, with label smoothing."""
        logits = packed_logits(self.gpt, self.prefix(x), packed, two_pass=self.two_pass)
        return F.cross_entropy(logits.float(), packed.targets, label_smoothing=label_smoothing)
