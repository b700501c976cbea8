"""Drafts in the device's batch, run uncaptured on the CPU: fewer passes, the same tokens and log-probabilities."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from streamcap.captioner.decoding.batch import Request, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, DraftStatistics, TokenDraft
from streamcap.captioner.decoding.sampling import CONTINUES, DENIED
from streamcap.captioner.decoding.static_decode_state import MAX_GUESSES
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.prompt import Prompt
from tests.captioner.decoding.test_draft_decoding import EveryGuess
from tests.captioner.tiny_models import ours

VOCABULARY = 120
STOP = StopCriteria(24, frozenset({56}))


def make_verifier(width: int) -> Verifier:
    verifier = Verifier(DraftBudget(), DraftStatistics(), VOCABULARY)
    verifier._budget = EveryGuess(width)  # type: ignore[assignment]
    return verifier


def decode(
    decoder: GPT2,
    prompts: list[Prompt],
    drafts: list[list[int]] | None = None,
    width: int = MAX_GUESSES,
    stop: StopCriteria = STOP,
) -> list[Request[int]]:
    batch: CudaGraphBatch[int] = CudaGraphBatch(
        decoder, stop, max_rows=4, verifier=None if drafts is None else make_verifier(width)
    )
    for number, prompt in enumerate(prompts):
        draft = drafts[number] if drafts is not None else []
        batch.add(number, prompt, TokenDraft(draft, Acceptances()) if draft else None)
    rows: dict[int, Request[int]] = {}
    while batch.active:
        rows |= {row.key: row for row in batch.step()}
    return [rows[number] for number in range(len(prompts))]


@pytest.fixture(scope="module")
def decoder() -> GPT2:
    return ours()


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    torch.manual_seed(2)
    return [Prompt(torch.randn(length, 64)) for length in (3, 10, 1, 7, 5, 12)]


@pytest.fixture(scope="module")
def undrafted(decoder: GPT2, prompts: list[Prompt]) -> list[Request[int]]:
    return decode(decoder, prompts)


def half_right(tokens: list[int]) -> list[int]:
    return [token if index % 5 else (token + 1) % VOCABULARY for index, token in enumerate(tokens, 1)]


def absurd(tokens: list[int]) -> list[int]:
    return random.Random(len(tokens)).choices(range(VOCABULARY), k=40)


def right_and_on(tokens: list[int]) -> list[int]:
    """Right, and goes on behind the stop token and the limit."""
    return [*tokens, *tokens]


@pytest.mark.parametrize("width", [2, 5, MAX_GUESSES])
@pytest.mark.parametrize("make", [list, half_right, absurd, right_and_on])
def test_drafts_keep_tokens_and_logprobs(
    decoder: GPT2,
    prompts: list[Prompt],
    undrafted: list[Request[int]],
    make: Callable[[list[int]], list[int]],
    width: int,
) -> None:
    # A row in three has no draft.
    drafts = [make(row.tokens) if number % 3 else [] for number, row in enumerate(undrafted)]
    found = decode(decoder, prompts, drafts, width)
    assert [row.tokens for row in found] == [row.tokens for row in undrafted]
    assert [row.logprob for row in found] == pytest.approx([row.logprob for row in undrafted], abs=1e-4)
    assert all(row.passes <= len(row.tokens) for row in found)


def test_right_draft_takes_the_fewest_passes(
    decoder: GPT2, prompts: list[Prompt], undrafted: list[Request[int]]
) -> None:
    found = decode(decoder, prompts, [row.tokens for row in undrafted])
    assert max(len(row.tokens) for row in undrafted) == 24
    for row in found:
        # The prompt gives one token, each pass 15 guesses and one more.
        assert row.passes == 1 + -(-(len(row.tokens) - 1) // (MAX_GUESSES + 1))


def test_stop_token_within_a_right_guess_ends_the_caption(
    decoder: GPT2, prompts: list[Prompt], undrafted: list[Request[int]]
) -> None:
    whole = [row.tokens for row in undrafted]
    stop = StopCriteria(24, frozenset({whole[1][7], whole[4][12]}))
    expected = [row.tokens for row in decode(decoder, prompts, stop=stop)]
    assert len(expected[1]) <= 8 and len(expected[4]) <= 13
    assert [row.tokens for row in decode(decoder, prompts, whole, stop=stop)] == expected


def test_passes_and_guesses_are_counted(decoder: GPT2, prompts: list[Prompt], undrafted: list[Request[int]]) -> None:
    verifier = make_verifier(MAX_GUESSES)
    batch: CudaGraphBatch[int] = CudaGraphBatch(decoder, STOP, max_rows=2, verifier=verifier)
    for number in (0, 1):
        draft = TokenDraft(undrafted[number].tokens, Acceptances()) if number else None
        batch.add(number, prompts[number], draft)
    rows: list[Request[int]] = []
    while batch.active:
        rows += batch.step()
    statistics = verifier._statistics
    assert statistics.tokens == sum(len(row.tokens) for row in rows)
    assert statistics.passes == sum(row.passes for row in rows)
    assert statistics.proposed == statistics.accepted > 0


def test_caption_up_to_the_last_position_keeps_its_tokens(decoder: GPT2) -> None:
    """Guesses reach beyond GPT-2's positions."""
    torch.manual_seed(3)
    prompts = [Prompt(torch.randn(decoder.config.n_positions - 4, 64))]
    (expected,) = decode(decoder, prompts)
    (found,) = decode(decoder, prompts, [[*expected.tokens, *range(20)]])
    assert found.tokens == expected.tokens
    assert len(found.tokens) <= 5


@pytest.mark.parametrize("kind", ["read twice", "cross-attention", "suppressed tokens"])
def test_other_prompts_keep_their_tokens(kind: str) -> None:
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2, n_inner=64, bos_token_id=0,
        eos_token_id=0, cross_width=24 if kind == "cross-attention" else 0,
    )  # fmt: skip
    decoder = GPT2(config).eval().requires_grad_(False)
    for weight in decoder.parameters():
        weight.mul_(2)
    suppressed = torch.zeros(VOCABULARY, dtype=torch.uint8)
    suppressed[::2] = DENIED
    suppressed[1::4] = CONTINUES
    prompts = [
        Prompt(
            torch.randn(length, 32),
            later_prefix=torch.randn(length, 32) if kind == "read twice" else None,
            cross=torch.randn(5, 24) if kind == "cross-attention" else None,
            suppressed=suppressed if kind == "suppressed tokens" else None,
        )
        for length in (3, 6, 4)
    ]
    expected = decode(decoder, prompts)
    for make in (list, half_right, absurd):
        found = decode(decoder, prompts, [make(row.tokens) for row in expected])
        assert [row.tokens for row in found] == [row.tokens for row in expected]
