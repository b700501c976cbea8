"""Tokens that cannot be chosen."""

from __future__ import annotations

import pytest
import torch

from streamcap.captioner.decoding.sampling import CONTINUES, DENIED, stack_suppressed, suppress_tokens

# The pieces "s" and "es", and the words "scissors" and "shoes".
SUPPRESSED = torch.tensor([CONTINUES, CONTINUES, DENIED, 0], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("logits", "chosen"),
    [
        ([3.0, 1.0, 2.0, 0.0], 0),  # a word goes on
        ([2.0, 1.0, 3.0, 0.0], 3),  # "pair of scissors" becomes "pair of shoes", not "pair ofs"
        ([2.0, 1.0, 0.0, 3.0], 3),
    ],
)
def test_next_best_of_a_denied_word_is_a_word(logits: list[float], chosen: int) -> None:
    assert suppress_tokens(torch.tensor([logits]), SUPPRESSED[None]).argmax() == chosen


def test_rows_without_tags_suppress_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0, 1.0]] * 2)
    assert stack_suppressed([None, None], logits) is None
    assert suppress_tokens(logits, stack_suppressed([None, SUPPRESSED], logits)).argmax(-1).tolist() == [2, 3]
