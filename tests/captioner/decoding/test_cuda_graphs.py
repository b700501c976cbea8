"""What a CPU can tell of recording on a GPU: that nothing waits for the host, and what happens when recording fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from streamcap.captioner.decoding import cuda_graphs
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable
from streamcap.captioner.decoding.sampling import token_logprobs
from streamcap.captioner.decoding.static_decode_state import VERIFY_WIDTHS, StaticDecodeState
from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.prompt import PromptBatch

CUDA = torch.device("cuda", 0)


def decoder(device: str, cross_width: int = 0) -> GPT2:
    config = GPT2Config(
        vocab_size=600, n_positions=64, n_embd=32, n_layer=2, n_head=2, n_inner=64, bos_token_id=0, eos_token_id=0,
        cross_width=cross_width,
    )  # fmt: skip
    return GPT2(config).eval().requires_grad_(False).to(device, torch.float16)


@pytest.mark.parametrize("cross", [0, 24])
@torch.inference_mode()
def test_step_and_prefill_do_not_sync_to_host(cross: int) -> None:
    """Meta tensors have no values: reading one on the host, or mixing in a tensor of the CPU, raises."""
    gpt2 = decoder("meta", cross)
    slots = StaticDecodeState(gpt2, 4, 32, 20, frozenset({0, 7}), 5 if cross else 0)
    assert slots._step(4) == () and slots._step(1) == ()
    assert all(slots._verify(4, width) == () for width in VERIFY_WIDTHS)
    prefix = torch.empty(2, 6, 32, device="meta", dtype=torch.float16)
    states = torch.empty(2, 5, 24, device="meta", dtype=torch.float16) if cross else None
    lengths = torch.empty(2, device="meta", dtype=torch.int64)
    chosen, score, scratch = slots._prefill(PromptBatch(prefix, lengths, None if cross else prefix, states))
    assert chosen.shape == score.shape == (2,)
    assert scratch.keys.shape == (2, 2, 2, 6, 16)


def test_device_logprobs_equal_cpu() -> None:
    torch.manual_seed(0)
    logits, tokens = 9 * torch.randn(5, 700), torch.tensor([0, 699, 3, 80, 256])
    expected = logits.log_softmax(-1)[torch.arange(5), tokens]
    torch.testing.assert_close(token_logprobs(logits, tokens), expected)
    meta = token_logprobs(logits.to("meta"), tokens.to("meta"))
    assert meta.shape == expected.shape and meta.dtype == expected.dtype


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A torch.cuda that records nothing; `error` is raised when the recorded call ends."""
    seen = SimpleNamespace(error=None, replays=0, streams=[], synchronised=0)
    stream = SimpleNamespace(wait_stream=lambda _: None)

    @contextlib.contextmanager
    def graph(_: object, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        seen.streams.append(stream)
        try:
            yield
        finally:
            if seen.error is not None:
                raise RuntimeError("operation failed due to a previous error during capture\nmore")

    def replay() -> None:
        seen.replays += 1

    def synchronize(_: object) -> None:
        seen.synchronised += 1

    monkeypatch.setattr(cuda_graphs, "_failed", False)
    monkeypatch.setattr(cuda_graphs, "_streams", {})
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: SimpleNamespace(wait_stream=lambda _: None))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    yield seen


def test_captures_share_one_stream_and_replay(pretended: SimpleNamespace) -> None:
    calls: list[int] = []

    def call(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(1)
        return (x + 1,)

    recorded = [GraphedCallable(call, [torch.zeros(2)], CUDA) for _ in range(2)]
    assert len(calls) == 2 * (cuda_graphs.WARM_UP_CALLS + 1)
    assert len(pretended.streams) == 2 and pretended.streams[0] is pretended.streams[1]
    recorded[0](torch.ones(2))
    assert pretended.replays == 1 and len(calls) == 2 * (cuda_graphs.WARM_UP_CALLS + 1)


def test_failed_capture_warns_once_and_runs_eagerly(
    pretended: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    pretended.error = "failed"
    with caplog.at_level(logging.WARNING, logger="streamcap"):
        found = [GraphedCallable(lambda x: (x + 1,), [torch.zeros(2)], CUDA) for _ in range(2)]
    assert [each(torch.ones(2))[0].tolist() for each in found] == [[2, 2], [2, 2]]
    assert cuda_graphs.capture_failed() and pretended.replays == 0 and pretended.synchronised == 1
    (record,) = caplog.records
    assert record.getMessage().endswith("operation failed due to a previous error during capture")


def test_out_of_memory_during_capture_is_raised(pretended: SimpleNamespace) -> None:
    pretended.error = "failed"
    left = cuda_graphs.WARM_UP_CALLS

    def call(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal left
        left -= 1
        if left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (x,)

    with pytest.raises(torch.OutOfMemoryError):
        GraphedCallable(call, [torch.zeros(2)], CUDA)
    assert not cuda_graphs.capture_failed()
