"""Our decoder against `transformers`' `generate` on the same weights."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt
from streamcap.errors import InputError
from tests.captioner.tiny_models import generate, gpt2

STOP = 56


def ours(model: GPT2LMHeadModel) -> GPT2:
    return load_gpt2(model.state_dict(), model.config.to_dict(), "test", prefix="")


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return gpt2(1)


@pytest.fixture(scope="module")
def prefixes(model: GPT2LMHeadModel) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(length, model.config.n_embd) for length in (1, 3, 10, 4, 7, 10, 2, 12)]


@pytest.fixture(scope="module")
def expected(model: GPT2LMHeadModel, prefixes: list[torch.Tensor]) -> list[list[int]]:
    return [generate(model, prefix, STOP, 24) for prefix in prefixes]


def test_batch_of_different_prefix_lengths(
    model: GPT2LMHeadModel, prefixes: list[torch.Tensor], expected: list[list[int]]
) -> None:
    batch: ContinuousBatch[int] = ContinuousBatch(
        ours(model), GreedySampler(), StopCriteria(24, frozenset({STOP})), max_rows=8
    )
    for number, prefix in enumerate(prefixes):
        batch.add(number, Prompt(prefix))
    found = {}
    while batch.active:
        found |= {row.key: row.tokens for row in batch.step()}
    assert [found[number] for number in range(len(prefixes))] == expected
    assert len({len(tokens) for tokens in expected}) > 1, "rows should also end at different times"


def test_rows_join_and_leave_running_batch(
    model: GPT2LMHeadModel, prefixes: list[torch.Tensor], expected: list[list[int]]
) -> None:
    batch: ContinuousBatch[int] = ContinuousBatch(
        ours(model), GreedySampler(), StopCriteria(24, frozenset({STOP})), max_rows=3
    )
    waiting = list(enumerate(prefixes))
    found = {}
    while waiting or batch.active:
        if waiting:
            number, prefix = waiting.pop(0)
            batch.add(number, Prompt(prefix))
        for _ in range(4):
            found |= {row.key: row.tokens for row in batch.step()}
            assert len(batch.rows) <= 3
    assert [found[number] for number in range(len(prefixes))] == expected


def test_dropped_row_keeps_other_rows_exact(
    model: GPT2LMHeadModel, prefixes: list[torch.Tensor], expected: list[list[int]]
) -> None:
    batch: ContinuousBatch[int] = ContinuousBatch(
        ours(model), GreedySampler(), StopCriteria(24, frozenset({STOP})), max_rows=4
    )
    for number, prefix in enumerate(prefixes[:6]):
        batch.add(number, Prompt(prefix))
    found = {row.key: row.tokens for row in batch.step()}
    assert batch.drop(2) and batch.drop(5) and not batch.drop(5)
    while batch.active:
        found |= {row.key: row.tokens for row in batch.step()}
    assert found == {number: expected[number] for number in (0, 1, 3, 4)}


def test_step_logits_equal_full_forward(model: GPT2LMHeadModel, prefixes: list[torch.Tensor]) -> None:
    decoder = ours(model)
    prefix, tokens = prefixes[2], [5, 90, 33]
    cache = decoder.new_cache(rows=1, positions=32)
    with torch.inference_mode():
        hidden, _ = decoder.prefill(prefix[None], [len(prefix)], cache)
        rows = [decoder.logits(hidden)]
        rows += [decoder.logits(decoder.step(torch.tensor([token]), cache)) for token in tokens]
        whole = torch.cat((prefix, model.transformer.wte(torch.tensor(tokens))))
        theirs = model(inputs_embeds=whole[None]).logits[0, len(prefix) - 1 :]
    torch.testing.assert_close(torch.cat(rows), theirs, atol=2e-4, rtol=1e-4)


def test_untied_head_and_other_activations() -> None:
    model = gpt2(3, activation_function="relu", tie_word_embeddings=False, n_inner=100, layer_norm_epsilon=1e-3)
    torch.manual_seed(4)
    prefix = torch.randn(5, 64)
    batch: ContinuousBatch[int] = ContinuousBatch(
        ours(model), GreedySampler(), StopCriteria(20, frozenset({STOP})), max_rows=1
    )
    batch.add(0, Prompt(prefix))
    found = []
    while batch.active:
        found += [row.tokens for row in batch.step()]
    assert found == [generate(model, prefix, STOP, 20)]


def test_config_that_contradicts_weights_is_refused(model: GPT2LMHeadModel) -> None:
    state, fields = model.state_dict(), model.config.to_dict()
    with pytest.raises(InputError, match="n_layer 5, the weights have 2"):
        load_gpt2(state, fields | {"n_layer": 5}, "a.pt", prefix="gpt.")
    with pytest.raises(InputError, match="does not divide into 3 heads"):
        load_gpt2(state, fields | {"n_head": 3}, "a.pt", prefix="gpt.")
    missing = {key: value for key, value in state.items() if key != "transformer.h.1.ln_2.bias"}
    with pytest.raises(InputError, match=r"a.pt: gpt.transformer.h.1.ln_2.bias is missing"):
        load_gpt2(missing, fields, "a.pt", prefix="gpt.")
    with pytest.raises(InputError, match=r"unexpected key gpt.transformer.h.0.surprise"):
        load_gpt2(state | {"transformer.h.0.surprise": torch.zeros(1)}, fields, "a.pt", prefix="gpt.")
    with pytest.raises(InputError, match=r"gpt.transformer.ln_f.bias has shape \(3,\), expected \(64,\)"):
        load_gpt2(state | {"transformer.ln_f.bias": torch.zeros(3)}, fields, "a.pt", prefix="gpt.")


def test_mask_buffers_of_old_files_are_ignored(model: GPT2LMHeadModel) -> None:
    state = model.state_dict() | {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 96, 96, dtype=torch.bool),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    assert load_gpt2(state, model.config.to_dict(), "a.pt", prefix="").config.n_head == 4
