"""The kernels for aarch64, cross-compiled and run by qemu-user: NEON, and NEON with dot product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.kernels import build
from streamcap.captioner.kernels.install import install_gpt2_kernels
from streamcap.captioner.kernels.packed import FusedLayers, PackedLayers, PackedLinear, matmul
from streamcap.captioner.kernels.precision import convert
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt
from testbed.programs import require_program
from tests.captioner.kernels.emulated import EmulatedLibrary, compile_emulated
from tests.captioner.kernels.test_packed import layer_weights, layers
from tests.captioner.packed_layers import needs_compiler, use_dequantized_weights
from tests.captioner.tiny_models import generate, gpt2, ours

pytestmark = [pytest.mark.slow, needs_compiler]

PROCESSORS = {"baseline": "cortex-a53", "dotprod": "max"}
"""qemu's names; the first has no dot product."""


@pytest.fixture(
    scope="module",
    params=[(level, precision) for level in build.LEVELS["aarch64"] for precision in level.precisions],
    ids=lambda param: f"{param[0].name}-{param[1]}",
)
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The kernels of an instruction set, and their precision."""
    compiler = require_program("aarch64-linux-gnu-gcc", "it compiles the kernels for aarch64")
    emulator = require_program("qemu-aarch64", "it runs them")
    level, precision = request.param
    program: Path = tmp_path_factory.mktemp("aarch64") / level.name
    compile_emulated(compiler, program, precision, *level.flags)
    return EmulatedLibrary([emulator, "-cpu", PROCESSORS[level.name], str(program)], precision), precision


@pytest.mark.parametrize("byte_activations", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 57), (4, 192, 32), (13, 64, 96)])
@torch.inference_mode()
def test_linear_layer_equals_that_of_x86(
    emulated: tuple[Any, str], rows: int, inputs: int, outputs: int, byte_activations: bool
) -> None:
    library, precision = emulated
    torch.manual_seed(rows)
    linear = nn.Linear(inputs, outputs)
    packed = PackedLinear(linear, precision, byte_activations=byte_activations)
    x = torch.randn(rows, inputs)
    if not byte_activations:
        x[0, 3] = 40.0
    actual = matmul(packed, x, library=library)
    torch.testing.assert_close(actual, matmul(packed, x), rtol=1e-6, atol=1e-5)
    tolerance = 1e-5 if precision == "fp32" else 2e-2 if byte_activations else 2e-3
    torch.testing.assert_close(actual, F.linear(x, packed.weight(), linear.bias), rtol=tolerance, atol=tolerance)


@torch.inference_mode()
def test_encoder_layers_match_torch(emulated: tuple[Any, str]) -> None:
    library, precision = emulated
    model = layers(2, activation="quick_gelu")
    fused = FusedLayers(layer_weights(model), heads=4, activation="quick_gelu", precision=precision, library=library)
    use_dequantized_weights(model, precision)
    torch.manual_seed(2)
    x = torch.randn(2, 7, 64)
    tolerance = 5e-3 if precision == "int8" else 5e-5
    torch.testing.assert_close(PackedLayers(fused)(x), model(x), rtol=tolerance, atol=tolerance)


def tokens(decoder: GPT2, prefixes: list[torch.Tensor]) -> dict[int, list[int]]:
    batch: ContinuousBatch[int] = ContinuousBatch(
        decoder, GreedySampler(), StopCriteria(8, frozenset({56})), max_rows=4
    )
    for number, prefix in enumerate(prefixes):
        batch.add(number, Prompt(prefix))
    found: dict[int, list[int]] = {}
    while batch.active:
        found |= {row.key: row.tokens for row in batch.step()}
    return found


@pytest.mark.parametrize("lengths", [[10], [3, 9, 5]])
def test_tokens_equal_those_of_x86(emulated: tuple[Any, str], lengths: list[int]) -> None:
    library, precision = emulated
    torch.manual_seed(2)
    prefixes = [torch.randn(length, 64) for length in lengths]
    decoder = ours()
    install_gpt2_kernels(decoder, precision, library)
    found = tokens(decoder, prefixes)
    assert found == tokens(convert(ours(), precision, torch.device("cpu")), prefixes)
    assert found[0] == generate(gpt2(1), prefixes[0], 56, 8)
