"""A released checkpoint of ours as the start of further training: its norms put back, its vocabulary extended.

What ships has every batch norm folded into its convolution and a vocabulary of its own captions alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from streamcap.captioner.models.mini_encoder import ConvNorm
from streamcap.errors import InputError

GLYPH = "Ġ"
"""Byte-level BPE's blank."""


def extend_tokenizer(tokenizer: Tokenizer, words: Iterable[str]) -> Tokenizer:
    """The tokenizer with one token for each of `words`; the ids of those it had stay.

    New merges come after all others, so that text without these words is cut as before.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    for word in words:
        if not (word.isascii() and word.isalpha()):
            continue
        pieces = list(tokenizer.encode(word).tokens)
        while len(pieces) > 1:
            joined = pieces[0] + pieces[1]
            pair = [pieces[0], pieces[1]]
            if pair not in merges[-4000:]:
                merges.append(pair)
            vocabulary.setdefault(joined, len(vocabulary))
            pieces[:2] = [joined]
    return Tokenizer.from_str(json.dumps(content))


def words_to_add(tokenizer: Tokenizer, sentences: Iterable[str], wanted: Iterable[str], count: int) -> list[str]:
    """`wanted` words, and the commonest of `sentences`, that have no token of their own: up to `count`."""
    common = Counter(word for sentence in sentences for word in sentence.split())
    first = [word for phrase in wanted for word in phrase.split() if common[word] >= 5]
    candidates = dict.fromkeys([*first, *(word for word, _ in common.most_common(8 * count))])
    return [word for word in candidates if len(tokenizer.encode(word).ids) > 1][:count]


def extend_embedding(weight: Tensor, old: Tokenizer, new: Tokenizer) -> Tensor:
    """Rows (V', E) for the tokens of `new`: the old ones, and for each new one the mean of its pieces in `old`."""
    rows = [*weight]
    for number in range(len(rows), new.get_vocab_size()):
        token = new.id_to_token(number) or ""
        pieces = old.encode(token.removeprefix(GLYPH)).ids
        rows.append(weight[pieces].mean(0))
    return torch.stack(rows)


@torch.no_grad()
def unfold(folded: nn.Module, fresh: nn.Module, batches: Sequence[Tensor]) -> None:
    """Load the weights of a `folded` encoder into a `fresh` one of the same shape, whose norms are set so that it
    computes the same: to the statistics of what their convolutions give on `batches` of normalized images.

    Raises InputError where the two are not of one shape.
    """
    theirs = [one for one in folded.modules() if isinstance(one, ConvNorm)]
    ours = [one for one in fresh.modules() if isinstance(one, ConvNorm)]
    if [one.conv.weight.shape for one in theirs] != [one.conv.weight.shape for one in ours]:
        raise InputError("the released encoder has other sizes than this recipe's")
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {number: [] for number in range(len(theirs))}
    hooks = [
        one.conv.register_forward_hook(
            lambda module, inputs, out, number=number: seen[number].append(
                (out.mean((0, 2, 3)), out.var((0, 2, 3), unbiased=False))
            )
        )
        for number, one in enumerate(theirs)
    ]
    folded.eval()
    for batch in batches:
        folded(batch)
    for hook in hooks:
        hook.remove()
    for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        mean = torch.stack([part[0] for part in seen[number]]).mean(0)
        variance = torch.stack([part[1] for part in seen[number]]).mean(0).clamp_min(1e-6)
        norm, bias = other.norm, one.conv.bias
        assert isinstance(norm, nn.BatchNorm2d) and bias is not None  # noqa: S101  a fresh one has a norm, a folded one a bias
        other.conv.weight.copy_(one.conv.weight)
        norm.running_mean.copy_(mean - bias)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
