"""Captions drawn by the captioner's decoder against transformers' probabilities."""

from __future__ import annotations

import pytest
import torch

from streamcap.training.gpt2 import build_gpt2
from streamcap.training.mini.sampling import fast_copy, sample

CONFIG = {"vocab_size": 6, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
CONFIG |= {"bos_token_id": 0, "eos_token_id": 0}


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    model = build_gpt2(CONFIG).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)
    return model


@torch.no_grad()
def next_token(gpt, prefix: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    words = gpt.transformer.wte(torch.tensor([tokens], dtype=torch.long))
    return gpt(inputs_embeds=torch.cat((prefix[None], words), 1)).logits[0, -1].softmax(-1)


def test_samples_follow_model_distribution(gpt) -> None:
    torch.manual_seed(1)
    prefix = torch.randn(2, 3, 32)
    count = 4000
    drawn = sample(fast_copy(gpt), prefix, count, stop=0, longest=3)
    for row in range(2):
        first = next_token(gpt, prefix[row], [])
        begun = [one.tokens[0] if one.tokens else 0 for one in drawn[row]]
        for token in range(6):
            assert begun.count(token) / count == pytest.approx(first[token].item(), abs=0.04)
        # And the second token given the commonest first one: rows that left must not have mixed up those that stay.
        common = max(range(1, 6), key=begun.count)
        going = [one for one in drawn[row] if one.tokens[:1] == [common]]
        second = next_token(gpt, prefix[row], [common])
        ended = sum(len(one.tokens) == 1 for one in going) / len(going)
        assert ended == pytest.approx(second[0].item(), abs=0.06)


def test_sample_ends_at_stop_token_or_max_tokens(gpt) -> None:
    drawn = [one for several in sample(fast_copy(gpt), torch.randn(3, 3, 32), 50, 0, 4) for one in several]
    assert all(0 not in one.tokens for one in drawn)
    assert {len(one.tokens) for one in drawn if not one.stopped} == {4}
    assert max(len(one.tokens) for one in drawn if one.stopped) <= 3


def test_fast_copy_is_deterministic_and_independent(gpt) -> None:
    prefix = torch.randn(2, 3, 32)
    torch.manual_seed(5)
    one = sample(fast_copy(gpt), prefix, 5, 0, 8)
    torch.manual_seed(5)
    assert sample(fast_copy(gpt), prefix, 5, 0, 8) == one
