"""The fused decode pass: interpreted and compared with torch, compiled for a GPU that is not there, and refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streamcap.captioner.decoding.batch import StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, DraftStatistics, TokenDraft
from streamcap.captioner.decoding.sampling import greedy_tokens, token_logprobs
from streamcap.captioner.decoding.static_decode_state import StaticDecodeState
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.kernels import fused_step, step_check
from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.kv_cache import KVCache
from streamcap.captioner.models.prompt import Prompt
from streamcap.errors import InputError
from testbed.programs import require_package

VOCABULARY = 37


@pytest.fixture
def triton() -> None:
    """Its interpreter: tests/conftest.py sets TRITON_INTERPRET."""
    require_package("triton")


def decoder(dtype: torch.dtype = torch.float32, **more: Any) -> GPT2:
    """A GPT-2 whose widths are no powers of two, with large weights, so that captions differ."""
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "n_positions": 72, "n_embd": 48, "n_layer": 2, "n_head": 3}
    config = GPT2Config(**{**sizes, "n_inner": 192, "bos_token_id": 0, "eos_token_id": 0, **more})
    torch.manual_seed(0)
    gpt2 = GPT2(config).eval().requires_grad_(False)
    for weight in gpt2.parameters():
        weight.normal_(0, 0.3)
    return gpt2.to(dtype)


# The kernels -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("triton")
@pytest.mark.slow
def test_kernels_agree_with_torch_in_fp32() -> None:
    from streamcap.captioner.kernels.triton_step import TritonStep

    gpt2 = decoder()
    gpt2.token_position_weight = 2.0
    # One query, and several rows of several positions.
    assert step_check.disagreement(gpt2, TritonStep(gpt2), ((1, 1), (2, 2))) is None


@pytest.mark.usefixtures("triton")
@pytest.mark.slow
def test_fused_batch_gives_the_tokens_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamcap.captioner.kernels.triton_step import TritonStep

    gpt2 = decoder(n_layer=1)
    prompts = [Prompt(torch.randn(length, 48)) for length in (2, 5)]

    def captions(drafts: list[list[int]] | None) -> dict[int, tuple[list[int], float]]:
        verifier = None if drafts is None else Verifier(DraftBudget(), DraftStatistics(), VOCABULARY)
        batch: CudaGraphBatch[int] = CudaGraphBatch(
            gpt2, StopCriteria(4, frozenset({VOCABULARY})), max_rows=2, verifier=verifier
        )
        for number, prompt in enumerate(prompts):
            batch.add(number, prompt, None if drafts is None else TokenDraft(drafts[number], Acceptances()))
        found = {}
        while batch.active:
            found |= {row.key: (row.tokens, row.logprob) for row in batch.step()}
        return found

    expected = captions(None)
    passes: list[tuple[int, ...]] = []
    fused = TritonStep(gpt2)
    run = fused._run
    monkeypatch.setattr(
        fused, "_run", lambda tokens, *more: (passes.append(tuple(tokens.shape)), run(tokens, *more))[1]
    )
    gpt2.fused_step = fused
    for drafts in (None, [tokens for tokens, _ in expected.values()]):
        found = captions(drafts)
        assert {key: tokens for key, (tokens, _) in found.items()} == {key: each[0] for key, each in expected.items()}
        assert [found[key][1] for key in (0, 1)] == pytest.approx([expected[key][1] for key in (0, 1)], abs=1e-4)
    assert set(passes) == {(2, 1), (2, 4)}


COMPILE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from streamcap.captioner.kernels import triton_kernels, triton_step
from tests.captioner.kernels.test_fused_step import decoder

NAMES = {torch.float16: "*fp16", torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64",
         torch.int32: "*i32", int: "i32", float: "fp32"}
launched, compiled = 0, set()

class Recorder:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *values, **constants):
        global launched
        launched += 1
        values = [NAMES[value.dtype if isinstance(value, torch.Tensor) else type(value)] for value in values]
        key = (self.kernel.__name__, *values, *constants.items())
        if key in compiled:
            return
        compiled.add(key)
        signature = dict(zip(self.kernel.arg_names, values)) | dict.fromkeys(constants, "constexpr")
        source = ASTSource(self.kernel, signature, constants, {})
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]

kernels = [name for name, value in vars(triton_kernels).items()
           if isinstance(value, triton.runtime.jit.JITFunction) and not name.startswith("_")]
for name in kernels:
    setattr(triton_kernels, name, Recorder(getattr(triton_kernels, name)))
gpt2 = decoder(torch.float16)
cache = gpt2.new_cache(rows=2, positions=16)
step = triton_step.TritonStep(gpt2)
for rows in (1, 2):
    launched = 0
    step(torch.zeros(rows, 1, dtype=torch.int64), torch.ones(rows, dtype=torch.int64), cache)
    assert launched == triton_step.launches(2) == 13, launched
assert {key[0] for key in compiled} == set(kernels)
print("compiled", len(compiled))
"""


@pytest.mark.usefixtures("triton")
@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("compiled"), done.stderr[-2000:]


# The check -------------------------------------------------------------------------------------------------------


def by_torch(gpt2: GPT2) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """`TritonStep` as torch computes it."""

    def run(tokens: Tensor, lengths: Tensor, cache: KVCache) -> tuple[Tensor, Tensor, Tensor]:
        rows = len(tokens)
        state = StaticDecodeState(gpt2, rows, cache.positions, 1, frozenset(), 0)
        state.cache = cache
        state.length.copy_(lengths)
        logits = state.logits(tokens)
        chosen = greedy_tokens(logits)
        scores = token_logprobs(logits.flatten(0, 1), chosen.flatten()).double().view_as(chosen)
        return chosen, scores, logits

    return run


def _a_wrong_row(results: tuple[Tensor, ...], cache: KVCache) -> tuple[Tensor, ...]:
    chosen, scores, logits = results
    return chosen, scores, logits.roll(1, 2)


def _nan(results: tuple[Tensor, ...], cache: KVCache) -> tuple[Tensor, ...]:
    chosen, scores, logits = results
    return chosen, scores, logits * float("nan")


def _a_wrong_token(results: tuple[Tensor, ...], cache: KVCache) -> tuple[Tensor, ...]:
    chosen, scores, logits = results
    return (chosen + 1) % VOCABULARY, scores, logits


def _a_wrong_score(results: tuple[Tensor, ...], cache: KVCache) -> tuple[Tensor, ...]:
    chosen, scores, logits = results
    return chosen, scores + 0.01, logits


def _no_key_written(results: tuple[Tensor, ...], cache: KVCache) -> tuple[Tensor, ...]:
    cache.keys.zero_()
    return results


def _another_position(results: tuple[Tensor, ...], cache: KVCache) -> tuple[Tensor, ...]:
    cache.values[-1, -1, -1, 0] += 1
    return results


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, None),
        (_a_wrong_row, "logits by"),
        (_nan, "logits by nan"),
        (_a_wrong_token, "not the most probable"),
        (_a_wrong_score, "log-probability"),
        (_no_key_written, "keys by"),
        (_another_position, "other positions"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_finds_a_faulty_kernel(
    fault: Callable[..., tuple[Tensor, Tensor, Tensor]] | None, reason: str | None, dtype: torch.dtype
) -> None:
    gpt2 = decoder(dtype)
    run = by_torch(gpt2)

    def faulty(tokens: Tensor, lengths: Tensor, cache: KVCache) -> tuple[Tensor, Tensor, Tensor]:
        results = run(tokens, lengths, cache)
        return results if fault is None else fault(results, cache)

    found = step_check.disagreement(gpt2, faulty)
    assert (found is None) if reason is None else (found is not None and reason in found)


# Installation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if a GPU and Triton were there, with kernels that torch computes."""
    monkeypatch.delenv("STREAMCAP_CUDA_FUSED", raising=False)
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path))
    monkeypatch.setattr(fused_step, "unavailable", lambda _: None)
    fake = SimpleNamespace(TritonStep=by_torch)
    monkeypatch.setitem(sys.modules, "streamcap.captioner.kernels.triton_step", fake)  # type: ignore[arg-type]


def ends(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replace the program of the trial."""
    monkeypatch.setattr(fused_step, "_command", lambda _: [sys.executable, "-c", code])


def test_fused_step_is_installed_after_both_checks(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, "print('{\"reason\": null}')")
    gpt2 = decoder(torch.float16)
    fused_step.install(gpt2)
    assert gpt2.fused_step is not None
    # The trial is not repeated for the same versions and shape.
    ends(monkeypatch, "raise SystemExit(1)")
    again = decoder(torch.float16)
    fused_step.install(again)
    assert again.fused_step is not None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "ended with status -6"),
        ("raise SystemExit('RuntimeError: CUDA error: an illegal memory access')", "an illegal memory access"),
        ('print(\'{"reason": "they differ"}\')', "they differ"),
        ("import time; time.sleep(60)", "took longer than 0.5 s"),
    ],
)
def test_failed_trial_keeps_torch(
    gpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str, reason: str
) -> None:
    ends(monkeypatch, code)
    if "sleep" in code:
        monkeypatch.setattr(fused_step, "TRIAL_TIMEOUT_S", 0.5)
    for _ in range(2):  # the second time from the file
        caplog.clear()
        gpt2 = decoder(torch.float16)
        fused_step.install(gpt2)
        assert gpt2.fused_step is None
        assert f"without the fused CUDA kernels: {reason}" in caplog.messages[-1] or reason in caplog.messages[-1]
        assert "\n" not in caplog.messages[-1]


def test_failed_check_with_the_real_weights_keeps_torch(
    gpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends(monkeypatch, "print('{\"reason\": null}')")

    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image is available\nfor this device")

    monkeypatch.setattr(step_check, "disagreement", fails)
    gpt2 = decoder(torch.float16)
    fused_step.install(gpt2)
    assert gpt2.fused_step is None
    assert caplog.messages[-1].endswith("kernels: RuntimeError: no kernel image is available")


def test_full_gpu_memory_is_tried_again(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ends(monkeypatch, "raise SystemExit('torch.OutOfMemoryError: CUDA out of memory.')")
    gpt2 = decoder(torch.float16)
    fused_step.install(gpt2)
    assert gpt2.fused_step is None
    ends(monkeypatch, "print('{\"reason\": null}')")
    fused_step.install(gpt2)
    assert gpt2.fused_step is not None


def test_environment_variable_turns_fused_step_off(
    gpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STREAMCAP_CUDA_FUSED", "off")
    gpt2 = decoder(torch.float16)
    with caplog.at_level(logging.INFO):
        fused_step.install(gpt2)
    assert gpt2.fused_step is None
    assert caplog.messages == ["decoding without the fused CUDA kernels: STREAMCAP_CUDA_FUSED=off"]
    monkeypatch.setenv("STREAMCAP_CUDA_FUSED", "yes")
    with pytest.raises(InputError, match="STREAMCAP_CUDA_FUSED=yes: it is auto or off"):
        fused_step.install(gpt2)


@pytest.mark.parametrize(
    ("dtype", "more", "reason"),
    [
        (torch.float32, {}, "for fp16 and bf16, not float32"),
        (torch.float16, {"cross_width": 24}, "no cross-attention"),
        (torch.float16, {"activation_function": "relu"}, "no activation relu"),
        (torch.float16, {"n_head": 4}, "width of 48 with 4 heads"),
        (torch.float16, {}, None),
    ],
)
def test_unsupported_models_keep_torch(dtype: torch.dtype, more: dict[str, Any], reason: str | None) -> None:
    found = fused_step.unsupported(decoder(dtype, **more))
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_replaced_layers_keep_torch() -> None:
    gpt2 = decoder(torch.float16)
    gpt2.head = nn.Sequential(gpt2.head)
    assert fused_step.unsupported(gpt2) == "the model's layers are not those of GPT-2"


def test_gpt2_small_and_mini_are_supported() -> None:
    mini = json.loads((Path(fused_step.__file__).parents[1] / "mini" / "config.json").read_text())["gpt2"]
    for sizes in (mini, {"n_embd": 768, "n_head": 12}):
        shape = {"n_embd": sizes["n_embd"], "n_head": sizes["n_head"], "n_inner": 4 * sizes["n_embd"], "n_layer": 1}
        assert fused_step.unsupported(decoder(torch.float16, **shape)) is None


def test_cpu_has_no_fused_step() -> None:
    assert fused_step.unavailable(torch.device("cpu")) == "they need an NVIDIA GPU"
