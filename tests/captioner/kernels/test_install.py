"""Models on the kernels, compared with torch and `transformers`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import nn

from streamcap.captioner import load_captioner
from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.kernels.install import install_gpt2_kernels
from streamcap.captioner.kernels.int8_torch import Int8Linear
from streamcap.captioner.kernels.packed import PackedEmbedding, PackedLayers, PackedLinear
from streamcap.captioner.kernels.packed_convolution import PackedConvolution
from streamcap.captioner.kernels.packed_encoder import PackedEncoder
from streamcap.captioner.kernels.precision import convert
from streamcap.captioner.models.mapping import MLPMapping, TransformerMapping
from streamcap.captioner.models.mini_encoder import GridMapping, StagedEncoder
from streamcap.captioner.models.prompt import Prompt
from tests.captioner.packed_layers import needs_compiler, use_dequantized_weights
from tests.captioner.tiny_models import generate, gpt2, ours, tower

CPU = torch.device("cpu")


@needs_compiler
def test_narrow_mlp_is_left_to_torch() -> None:
    theirs = gpt2(1, n_inner=32)
    decoder = load_gpt2(theirs.state_dict(), theirs.config.to_dict(), "test", prefix="")
    assert type(convert(decoder, "fp32", CPU).head) is nn.Linear
    assert isinstance(convert(decoder, "int8", CPU).head, Int8Linear)


@needs_compiler
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("lengths", [[6], [6, 6], [3, 7, 5, 1, 4, 2, 6]])
@torch.inference_mode()
def test_gpt2_kernels_match_torch(library: ctypes.CDLL, precision: str, lengths: list[int], activation: str) -> None:
    plain, fast = ours(activation_function=activation), ours(activation_function=activation)
    use_dequantized_weights(plain, precision)
    install_gpt2_kernels(fast, precision, library)
    torch.manual_seed(2)
    prefix = 0.3 * torch.randn(len(lengths), max(lengths), 64)
    found = []
    for decoder in (plain, fast):
        cache = decoder.new_cache(rows=len(lengths), positions=16)
        hidden, _ = decoder.prefill(prefix, lengths, cache)
        steps = [decoder.step(torch.full((len(lengths),), token), cache) for token in (5, 9, 11)]
        found.append(torch.stack([decoder.logits(state) for state in (hidden, *steps)]))
    tolerance = 2e-3 if precision == "int8" else 2e-5
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance)


@needs_compiler
@torch.inference_mode()
def test_tied_embedding_is_stored_once() -> None:
    plain, decoder = ours(), convert(ours(), "fp32", CPU)
    assert isinstance(decoder.wte, PackedEmbedding)
    assert not list(decoder.wte.parameters()) and not list(decoder.wte.buffers())
    tokens = torch.arange(57)
    assert torch.equal(decoder.wte(tokens), plain.wte(tokens))
    assert torch.equal(decoder.embed_token(40), plain.embed_token(40))
    for token in (-1, decoder.config.vocab_size):
        with pytest.raises(IndexError):
            decoder.embed_token(token)


@needs_compiler
@torch.inference_mode()
def test_batched_rows_equal_single_rows(precision: str) -> None:
    decoder = convert(ours(), precision, CPU)
    assert isinstance(decoder.head, PackedLinear)
    torch.manual_seed(3)
    prompts = [Prompt(torch.randn(length, 64)) for length in (3, 9, 1, 5, 7, 2)]
    stop_criteria = StopCriteria(12, frozenset({56}))

    def run(chunk: list[Prompt], cuda_graphs: bool) -> list[list[int]]:
        batch: ContinuousBatch[int] | CudaGraphBatch[int] = (
            CudaGraphBatch(decoder, stop_criteria, max_rows=4)
            if cuda_graphs
            else ContinuousBatch(decoder, GreedySampler(), stop_criteria, max_rows=4)
        )
        for number, prompt in enumerate(chunk):
            batch.add(number, prompt)
        rows: dict[int, list[int]] = {}
        while batch.active:
            rows |= {row.key: row.tokens for row in batch.step()}
        return [rows[number] for number in range(len(chunk))]

    alone = [run([prompt], False)[0] for prompt in prompts]
    assert run(prompts, False) == alone
    assert run(prompts, True) == alone


@needs_compiler
def test_kernel_tokens_equal_transformers(precision: str) -> None:
    theirs = gpt2(1)
    decoder = convert(ours(), precision, CPU)
    torch.manual_seed(2)
    prefix = torch.randn(10, 64)
    batch: ContinuousBatch[int] = ContinuousBatch(
        decoder, GreedySampler(), StopCriteria(8, frozenset({56})), max_rows=1
    )
    batch.add(0, Prompt(prefix))
    rows: list[list[int]] = []
    while batch.active:
        rows += [row.tokens for row in batch.step()]
    assert rows[0] == generate(theirs, prefix, 56, 8)


@needs_compiler
@torch.inference_mode()
def test_nan_input_reaches_logits(precision: str) -> None:
    decoder = convert(ours(), precision, CPU)
    prefix = torch.zeros(1, 4, 64)
    prefix[0, 1, 7] = torch.nan
    cache = decoder.new_cache(rows=1, positions=8)
    hidden, _ = decoder.prefill(prefix, [4], cache)
    assert decoder.logits(hidden).isnan().all()


@needs_compiler
def test_mini_uses_kernels(precision: str) -> None:
    captioner = load_captioner("mini", device="cpu", precision=precision)
    assert isinstance(captioner._gpt2.head, PackedLinear)
    width, height = captioner.image_spec.size
    (result,) = captioner.caption([torch.zeros(height, width, 3, dtype=torch.uint8).numpy()])
    assert result.text


def mapping(*, cross: bool) -> TransformerMapping:
    return TransformerMapping(64, 4 * 64, 64, 4, heads=4, hidden=128, layers=2, cross=cross)


PACKED: dict[str, dict[str, type[nn.Module]]] = {
    "vision transformer": {"layers.0": PackedLayers, "patches": PackedLinear, "projection": PackedLinear},
    "transformer mapping": {"transformer": PackedLayers, "linear": PackedLinear},
    "cross-attending mapping": {"transformer.layers.0.attn.project": PackedLinear},
    "grid mapping": {"layers.0": PackedLayers, "project_in": PackedLinear},
    "MLP": {"model.0": PackedLinear},
    "staged": {
        "packed": PackedEncoder,
        "stem.packed": PackedConvolution,
        "stages.0.project_in.packed": PackedConvolution,
    },
}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vision transformer": (tower, (2, 3, 64, 64)),
    "transformer mapping": (lambda: mapping(cross=False), (3, 64)),
    "cross-attending mapping": (lambda: mapping(cross=True), (3, 64)),
    "grid mapping": (lambda: GridMapping(4, 64, 64, 3, 2, 4, 0.0), (2, 4, 64)),
    "MLP": (lambda: MLPMapping(64, 128, 192, 64), (2, 64)),
    "staged": (lambda: StagedEncoder(8, (16, 24), (1, 1), (2, 1), (12, 20), True), (2, 3, 33, 64)),
}


@needs_compiler
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_installed_encoders_and_mappings_match_torch(name: str, precision: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(4)
    model = make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(shape)
    expected = model(x)
    found = convert(model, precision, CPU)
    for part, kind in PACKED[name].items():
        assert type(found.get_submodule(part)) is kind
    error = float((found(x) - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error < (0.03 if precision == "int8" else 1e-5)
