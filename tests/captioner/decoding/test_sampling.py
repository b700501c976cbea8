"""Log-probabilities of chosen tokens."""

from __future__ import annotations

import pytest
import torch

from streamcap.captioner.decoding.sampling import greedy_tokens, token_logprobs


@pytest.mark.parametrize("rows", [1, 8, 9, 80])
def test_logprobs_of_a_row_do_not_depend_on_others(rows: int) -> None:
    torch.manual_seed(rows)
    logits = 4 * torch.randn(rows, 501)
    tokens = greedy_tokens(logits)
    found = token_logprobs(logits, tokens)
    alone = torch.cat([token_logprobs(logits[row : row + 1], tokens[row : row + 1]) for row in range(rows)])
    assert torch.equal(found, alone)
    exact = logits.double().softmax(-1)[torch.arange(rows), tokens].log()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
