"""All convolutions of an encoder in one call, compared with one call for each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from streamcap.captioner.kernels import packed_encoder
from streamcap.captioner.kernels.packed_encoder import PackedEncoder
from streamcap.captioner.kernels.precision import convert
from streamcap.captioner.models.mini_encoder import StagedEncoder
from tests.captioner.packed_layers import needs_compiler

pytestmark = needs_compiler
SHAPES = [(1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 33, 50)]


@pytest.fixture(scope="module")
def encoder() -> StagedEncoder:
    torch.manual_seed(3)
    model = StagedEncoder(8, (16, 24, 40), (1, 2, 0), (2, 1, 2), (12, 20, 32), True).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return convert(model, "fp32", torch.device("cpu"))


def one_by_one(encoder: StagedEncoder, pixels: Tensor) -> Tensor:
    packed, encoder.packed = encoder.packed, None
    try:
        return encoder(pixels)  # type: ignore[no-any-return]
    finally:
        encoder.packed = packed


@pytest.mark.parametrize("threads", [1, 2])
@torch.inference_mode()
def test_the_bits_are_those_of_one_call_each(encoder: StagedEncoder, threads: int) -> None:
    assert isinstance(encoder.packed, PackedEncoder)
    torch.set_num_threads(threads)
    try:
        for shape in SHAPES * 2:
            pixels = torch.randn(shape)
            assert torch.equal(encoder(pixels), one_by_one(encoder, pixels))
    finally:
        torch.set_num_threads(1)


@torch.inference_mode()
def test_a_result_outlives_the_next_call(encoder: StagedEncoder) -> None:
    pixels = torch.randn(SHAPES[0])
    first = encoder(pixels)
    before = first.clone()
    encoder(-pixels)
    assert torch.equal(first, before)


@torch.inference_mode()
def test_plans_are_bounded(encoder: StagedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_encoder, "MAX_PLANS", 2)
    packed = PackedEncoder(encoder.steps())
    for shape in SHAPES:
        packed(torch.randn(shape))
    assert len(packed._plans) == 2
