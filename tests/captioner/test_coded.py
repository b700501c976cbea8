"""The compiled decoder against torch on the same weights, against `transformers`, and without a compiler."""

from __future__ import annotations

import ctypes
import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from streamcap.captioner import coded, compiled, load_captioner
from streamcap.captioner.batch import Limits, RunningBatch
from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.coded import CodedEmbedding, CodedLinear, Passes
from streamcap.captioner.gpt2 import GPT2
from streamcap.captioner.precision import convert
from streamcap.captioner.prompt import Prompt
from streamcap.captioner.quantized import Int8Linear
from streamcap.captioner.selection import Greedy
from streamcap.captioner.slots import SlotBatch

from .models import generate, gpt2

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(compiled.library("int8") is None, reason="no C compiler, or not Linux on AVX2")


def ours(activation: str = "gelu_new") -> GPT2:
    theirs = gpt2(1, activation_function=activation)
    return load_gpt2(theirs.state_dict(), theirs.config.to_dict(), "test", prefix="")


def with_codes(plain: GPT2, precision: str) -> GPT2:
    """The weights that the codes stand for, in float32 through torch: what the compiled passes should give."""
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, CodedLinear(child, precision))
    return plain


@pytest.fixture(scope="module", params=["int8", "fp32"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["this CPU's vectors", "AVX2"])
def library(request: pytest.FixtureRequest, precision: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if request.param != "AVX2":
        found = compiled.library(precision)
        assert found is not None
        return found
    target = tmp_path_factory.mktemp("library") / "decoder.so"
    compiler = shutil.which("cc")
    assert compiler is not None
    floats = [compiled.FLOATS] if precision == "fp32" else []
    compiled.build(compiler, target, *floats, "-mno-avx512f", "-Wall", "-Wextra", "-Werror")
    return ctypes.CDLL(str(target))


@needs_compiler
def test_a_model_narrower_inside_is_left_to_torch() -> None:
    theirs = gpt2(1, n_inner=32)
    narrow = load_gpt2(theirs.state_dict(), theirs.config.to_dict(), "test", prefix="")
    assert coded.fits(ours(), "int8") and not coded.fits(narrow, "int8")
    assert isinstance(convert(narrow, "int8", CPU).head, Int8Linear)


@needs_compiler
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("lengths", [[6], [6, 6], [3, 7, 5, 1, 4, 2, 6]])
@torch.inference_mode()
def test_passes_are_those_of_torch_on_the_same_weights(
    library: ctypes.CDLL, precision: str, lengths: list[int], activation: str
) -> None:
    plain = with_codes(ours(activation), precision) if precision == "int8" else ours(activation)
    fast = with_codes(ours(activation), precision)
    passes = Passes(fast, precision, library)
    fast.run_with(passes.layers, passes.head)
    torch.manual_seed(2)
    prefix = 0.3 * torch.randn(len(lengths), max(lengths), 64)
    found = []
    for decoder in (plain, fast):
        cache = decoder.new_cache(rows=len(lengths), positions=16)
        hidden, _ = decoder.prefill(prefix, lengths, cache)
        steps = [decoder.step(torch.full((len(lengths),), token), cache) for token in (5, 9, 11)]
        found.append(torch.stack([decoder.logits(each) for each in (hidden, *steps)]))
    near = 2e-3 if precision == "int8" else 2e-5
    torch.testing.assert_close(found[1], found[0], rtol=near, atol=near)


@needs_compiler
@torch.inference_mode()
def test_tied_words_lie_in_memory_once_and_stay_what_they_were() -> None:
    plain, decoder = ours(), convert(ours(), "fp32", CPU)
    assert isinstance(decoder.wte, CodedEmbedding)
    assert not list(decoder.wte.parameters()) and not list(decoder.wte.buffers())
    tokens = torch.arange(57)
    assert torch.equal(decoder.wte(tokens), plain.wte(tokens))
    assert torch.equal(decoder.word(40), plain.word(40))


@needs_compiler
@torch.inference_mode()
def test_rows_decode_as_they_do_alone(precision: str) -> None:
    decoder = convert(ours(), precision, CPU)
    assert isinstance(decoder.head, CodedLinear)
    torch.manual_seed(3)
    prompts = [Prompt(torch.randn(length, 64)) for length in (3, 9, 1, 5, 7, 2)]
    limits = Limits(12, frozenset({56}))

    def run(some: list[Prompt], slots: bool) -> list[list[int]]:
        batch: RunningBatch[int] | SlotBatch[int] = (
            SlotBatch(decoder, limits, max_rows=4) if slots else RunningBatch(decoder, Greedy(), limits, max_rows=4)
        )
        for number, prompt in enumerate(some):
            batch.add(number, prompt)
        rows: dict[int, list[int]] = {}
        while batch.active:
            rows |= {row.key: row.tokens for row in batch.step()}
        return [rows[number] for number in range(len(some))]

    alone = [run([prompt], False)[0] for prompt in prompts]
    assert run(prompts, False) == alone
    assert run(prompts, True) == alone


@needs_compiler
def test_tokens_stay_those_of_transformers_where_one_token_is_clearly_best(precision: str) -> None:
    theirs = gpt2(1)
    decoder = convert(ours(), precision, CPU)
    torch.manual_seed(2)
    prefix = torch.randn(10, 64)
    batch: RunningBatch[int] = RunningBatch(decoder, Greedy(), Limits(8, frozenset({56})), max_rows=1)
    batch.add(0, Prompt(prefix))
    rows: list[list[int]] = []
    while batch.active:
        rows += [row.tokens for row in batch.step()]
    assert rows[0] == generate(theirs, prefix, 56, 8)


@needs_compiler
@torch.inference_mode()
def test_what_is_not_finite_stays_visible(precision: str) -> None:
    decoder = convert(ours(), precision, CPU)
    prefix = torch.zeros(1, 4, 64)
    prefix[0, 1, 7] = torch.nan
    cache = decoder.new_cache(rows=1, positions=8)
    hidden, _ = decoder.prefill(prefix, [4], cache)
    assert decoder.logits(hidden).isnan().all()


@needs_compiler
def test_the_embedded_captioner_is_compiled(precision: str) -> None:
    captioner = load_captioner("mini", device="cpu", precision=precision)
    assert isinstance(captioner._gpt2.head, CodedLinear)
    width, height = captioner.picture.size
    (result,) = captioner.caption([torch.zeros(height, width, 3, dtype=torch.uint8).numpy()])
    assert result.text


@needs_compiler
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path / "cache"))
    compiled.library.cache_clear()
    try:
        assert compiled.library("int8") is not None
        (file,) = (tmp_path / "cache" / "compiled").iterdir()
        compiled.library.cache_clear()
        monkeypatch.setattr(compiled, "build", lambda *_: pytest.fail("compiled again"))
        assert compiled.library("int8") is not None
        assert [file] == list((tmp_path / "cache" / "compiled").iterdir())
    finally:
        compiled.library.cache_clear()


@pytest.mark.parametrize("reason", ["turned off", "no compiler", "a compiler that fails", "a directory of everybody's"])
def test_without_the_library_torchs_products_are_used(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path))
    if reason == "turned off":
        monkeypatch.setenv("STREAMCAP_COMPILE", "0")
    elif reason == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif reason == "a compiler that fails":
        failing = tmp_path / "cc"
        failing.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "decoder.c:1: error: no AVX2" >&2\nexit 1\n'
        )
        failing.chmod(0o755)
        monkeypatch.setenv("CC", str(failing))
    else:
        (tmp_path / "compiled").mkdir()
        (tmp_path / "compiled").chmod(0o777)
    compiled.library.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="streamcap"):
            assert compiled.library("int8") is None
        assert not coded.fits(ours(), "int8") and not coded.fits(ours(), "fp32")
        decoder = convert(ours(), "int8", CPU)
        assert isinstance(decoder.head, Int8Linear)
        assert type(convert(ours(), "fp32", CPU).head) is nn.Linear
        if reason == "a compiler that fails":
            assert "error: no AVX2" in caplog.text
            assert not list((tmp_path / "compiled").iterdir())
    finally:
        compiled.library.cache_clear()
