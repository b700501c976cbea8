"""The model as it is trained: a prefix from an image, and all of its captions in one packed GPT-2 pass.

An image has several captions which share its prefix, so they are laid behind it in one row, each seeing the prefix
and itself only, each counting positions from the prefix's end. For five captions that is about half the work of five
rows.
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
    """Captions of B images behind prefixes of P positions, S positions a row in all, M tokens to predict."""

    tokens: Tensor
    """(B, S - P) token ids; padding is 0 and is seen by no one."""
    positions: Tensor
    """(B, S) position ids: the prefix counts from 0, every caption from P."""
    visible: Tensor
    """(B, 1, S, S) bool: whether the row's position may look at the column's."""
    sources: Tensor
    """(M,) index into the flattened B * S hidden states which predict."""
    targets: Tensor
    """(M,) the token each source must predict; every caption that was not cut ends with the stop token."""
    owners: Tensor
    """(M,) which caption, counted through the whole batch, a target belongs to."""

    def to(self, device: torch.device) -> Packed:
        return Packed(*(getattr(self, name).to(device) for name in self.__slots__))


def pack(captions: Sequence[Sequence[Sequence[int]]], prefix: int, stop: int, longest: int | None = None) -> Packed:
    """Lay each image's captions (token ids without the stop token) behind a prefix of `prefix` positions.

    longest: a caption of so many tokens was cut there: nothing says that it ends, so no stop token is to be predicted.
    """
    laid = [[_read(caption, stop, longest) for caption in several] for several in captions]
    length = prefix + max(sum(len(read) for read, _ in several) for several in laid)
    rows = len(captions)
    tokens = torch.zeros(rows, length - prefix, dtype=torch.long)
    positions = torch.zeros(rows, length, dtype=torch.long)
    positions[:, :prefix] = torch.arange(prefix)
    segment = torch.full((rows, length), -1, dtype=torch.long)  # 0 the prefix, 1... its captions, -1 padding
    segment[:, :prefix] = 0
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    count = 0
    for row, several in enumerate(laid):
        at = prefix
        for number, (caption, last) in enumerate(several):
            end = at + len(caption)
            tokens[row, at - prefix : end - prefix] = torch.tensor(caption, dtype=torch.long)
            positions[row, at:end] = torch.arange(prefix, prefix + len(caption))
            segment[row, at:end] = number + 1
            base = row * length
            sources += [base + prefix - 1, *range(base + at, base + end)]
            targets += [*caption, last]
            owners += [count] * (len(caption) + 1)
            count += 1
            at = end
    order = torch.arange(length)
    causal = order[:, None] >= order[None, :]
    same = segment[:, :, None] == segment[:, None, :]
    visible = causal & (same | (segment[:, None, :] == 0)) | (order[:, None] == order[None, :])
    return Packed(
        tokens, positions, visible[:, None], torch.tensor(sources), torch.tensor(targets), torch.tensor(owners)
    )


def _read(caption: Sequence[int], stop: int, longest: int | None) -> tuple[Sequence[int], int]:
    """What GPT-2 reads of a caption, and the last token it must predict."""
    return (caption[:-1], caption[-1]) if longest is not None and len(caption) >= longest else (caption, stop)


def packed_logits(gpt: GPT2LMHeadModel, prefix: Tensor, packed: Packed, *, twofold: bool = False) -> Tensor:
    """Logits (M, vocabulary) of what `packed.targets` must be, given prefixes (B, P, E).

    twofold: as VideoCaptionerWithClip's loop runs GPT-2 (see `captioner.prompt.TwoPassPrefixPrompter`): a caption's first token
    comes from the prefix with one explicit position embedding, the later ones from the prefix with two and from tokens
    with one.
    """
    hidden = _hidden(gpt, prefix, packed, twofold)
    if twofold:
        length, last = packed.positions.shape[1], prefix.shape[1] - 1
        first = gpt.transformer(inputs_embeds=prefix + gpt.transformer.wpe.weight[: last + 1]).last_hidden_state[:, -1]
        opening = packed.sources % length == last
        hidden = torch.where(opening[:, None], first[packed.sources // length], hidden)
    logits: Tensor = gpt.lm_head(hidden)
    return logits


def _hidden(gpt: GPT2LMHeadModel, prefix: Tensor, packed: Packed, twofold: bool) -> Tensor:
    """The last hidden states (M, E) at `packed.sources`."""
    words = gpt.transformer.wte(packed.tokens).to(prefix.dtype)
    if twofold:
        positions = gpt.transformer.wpe(packed.positions).to(prefix.dtype)
        length = prefix.shape[1]
        prefix, words = prefix + 2 * positions[:, :length], words + positions[:, length:]
    # An additive mask, since GPT-2 takes a four-dimensional mask as it is and a boolean one is no number to it.
    mask = torch.zeros(packed.visible.shape, dtype=prefix.dtype, device=prefix.device)
    mask = mask.masked_fill(~packed.visible, torch.finfo(prefix.dtype).min)
    out = gpt.transformer(
        inputs_embeds=torch.cat((prefix, words), 1), attention_mask=mask, position_ids=packed.positions
    )
    hidden: Tensor = out.last_hidden_state.flatten(0, 1)[packed.sources]
    return hidden


class CaptionModel(nn.Module):
    """vision -> mapping -> GPT-2; `vision` is None where the data are embeddings already."""

    def __init__(
        self, vision: nn.Module | None, mapping: nn.Module, gpt: GPT2LMHeadModel, *, twofold: bool = False
    ) -> None:
        super().__init__()
        self.vision = vision
        self.mapping = mapping
        self.gpt = gpt
        self.twofold = twofold

    def prefix(self, x: Tensor) -> Tensor:
        """`x`: pixels (B, 3, H, W), or embeddings as the mapping takes them. Returns (B, P, E), after the embedding of
        the start token where the loop is twofold."""
        y: Tensor = self.mapping(x if self.vision is None else self.vision(x))
        if self.twofold:
            start = self.gpt.transformer.wte.weight[self.gpt.config.bos_token_id].expand(len(y), 1, -1)
            y = torch.cat((start.to(y.dtype), y), 1)
        return y

    def forward(self, x: Tensor, packed: Packed, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy per target token, nats, with label smoothing."""
        logits = packed_logits(self.gpt, self.prefix(x), packed, twofold=self.twofold)
        return F.cross_entropy(logits.float(), packed.targets, label_smoothing=label_smoothing)
