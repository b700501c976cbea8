"""The device's batch, run uncaptured on the CPU, against `transformers` and the running batch."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.decoding import cuda_graphs
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, bucket
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.prompt import Prompt
from tests.captioner.tiny_models import generate, gpt2

STOP = 56


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return gpt2(1)


@pytest.fixture(scope="module")
def ours(model: GPT2LMHeadModel) -> GPT2:
    return load_gpt2(model.state_dict(), model.config.to_dict(), "test", prefix="")


@pytest.fixture(scope="module")
def prefixes(model: GPT2LMHeadModel) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(length, model.config.n_embd) for length in (1, 3, 10, 4, 7, 10, 2, 12, 5)]


@pytest.fixture(scope="module")
def expected(model: GPT2LMHeadModel, prefixes: list[torch.Tensor]) -> list[list[int]]:
    return [generate(model, prefix, STOP, 24) for prefix in prefixes]


@pytest.mark.parametrize("steps_per_sync", [1, 4, 7])
def test_rows_of_different_length_join_and_leave(
    ours: GPT2, prefixes: list[torch.Tensor], expected: list[list[int]], steps_per_sync: int
) -> None:
    batch: CudaGraphBatch[int] = CudaGraphBatch(
        ours, StopCriteria(24, frozenset({STOP})), max_rows=4, steps_per_sync=steps_per_sync
    )
    waiting = list(enumerate(prefixes))
    found = {}
    while waiting or batch.active:
        for number, prefix in waiting[:2]:
            batch.add(number, Prompt(prefix))
        waiting = waiting[2:]
        found |= {row.key: row.tokens for row in batch.step()}
        assert len(batch.rows) <= 4
    assert [found[number] for number in range(len(prefixes))] == expected


def test_logprobs_equal_continuous_batch(ours: GPT2, prefixes: list[torch.Tensor]) -> None:
    stop_criteria = StopCriteria(12, frozenset({STOP}))
    batches = [
        ContinuousBatch[int](ours, GreedySampler(), stop_criteria, max_rows=9),
        CudaGraphBatch[int](ours, stop_criteria, max_rows=9),
    ]
    found: list[dict[int, float]] = []
    for batch in batches:
        for number, prefix in enumerate(prefixes):
            batch.add(number, Prompt(prefix))
        logprobs: dict[int, float] = {}
        while batch.active:
            logprobs |= {row.key: row.logprob for row in batch.step()}
        found.append(logprobs)
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_first_sync_returns_first_token(ours: GPT2, prefixes: list[torch.Tensor], expected: list[list[int]]) -> None:
    batch: CudaGraphBatch[str] = CudaGraphBatch(ours, StopCriteria(24, frozenset({STOP})), max_rows=4)
    batch.add("door", Prompt(prefixes[2]))
    assert batch.step() == []
    assert [row.tokens for row in batch.rows] == [expected[2][:1]]
    batch.step()
    assert [row.tokens for row in batch.rows] == [expected[2][:5]]


def test_dropped_row_keeps_other_rows_exact(
    ours: GPT2, prefixes: list[torch.Tensor], expected: list[list[int]]
) -> None:
    batch: CudaGraphBatch[int] = CudaGraphBatch(ours, StopCriteria(24, frozenset({STOP})), max_rows=4)
    for number, prefix in enumerate(prefixes[:5]):
        batch.add(number, Prompt(prefix))
    batch.step()
    assert batch.drop(1) and batch.drop(4) and not batch.drop(4)
    found = {}
    while batch.active:
        found |= {row.key: row.tokens for row in batch.step()}
    assert found == {number: expected[number] for number in (0, 2, 3)}


def test_rows_are_reused_across_batches(ours: GPT2, prefixes: list[torch.Tensor], expected: list[list[int]]) -> None:
    batch: CudaGraphBatch[int] = CudaGraphBatch(ours, StopCriteria(24, frozenset({STOP})), max_rows=8)
    for few in (range(2), range(8), range(3, 4)):
        found = {}
        for number in few:
            batch.add(number, Prompt(prefixes[number]))
        while batch.active:
            found |= {row.key: row.tokens for row in batch.step()}
        assert found == {number: expected[number] for number in few}


def test_buckets_are_powers_of_two() -> None:
    assert [bucket(count, 48) for count in (1, 2, 3, 5, 33, 48)] == [1, 2, 4, 8, 48, 48]


def test_graphed_callable_on_cpu_copies_its_inputs() -> None:
    seen: list[int] = []

    def call(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(x.data_ptr())
        return (x * 2,)

    given = torch.ones(3)
    replay = GraphedCallable(call, [given], torch.device("cpu"))
    assert replay(given + 1)[0].tolist() == [4, 4, 4]
    assert replay(given + 2)[0].tolist() == [6, 6, 6]
    assert len(set(seen)) == 1 and seen[0] != given.data_ptr()
    assert not cuda_graphs.capture_failed()


@pytest.mark.parametrize("kind", ["read twice", "cross-attention"])
def test_other_prompt_kinds_equal_continuous_batch(kind: str) -> None:
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=90, n_positions=64, n_embd=32, n_layer=2, n_head=2, n_inner=64, bos_token_id=0, eos_token_id=0,
        cross_width=24 if kind == "cross-attention" else 0,
    )  # fmt: skip
    decoder = GPT2(config).eval().requires_grad_(False)
    for weight in decoder.parameters():
        weight.mul_(2)
    prompts = [
        Prompt(torch.randn(length, 32), later_prefix=torch.randn(length, 32))
        if kind == "read twice"
        else Prompt(torch.randn(1, 32), cross=torch.randn(5, 24))
        for length in (3, 6, 4)
    ]
    stop_criteria = StopCriteria(10, frozenset({1}))
    found: list[dict[int, list[int]]] = []
    for batch in (
        ContinuousBatch[int](decoder, GreedySampler(), stop_criteria, max_rows=2),
        CudaGraphBatch[int](decoder, stop_criteria, max_rows=2),
    ):
        for number, prompt in enumerate(prompts):
            batch.add(number, prompt)
        tokens: dict[int, list[int]] = {}
        while batch.active:
            tokens |= {row.key: row.tokens for row in batch.step()}
        found.append(tokens)
    assert found[0] == found[1]
