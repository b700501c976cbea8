"""Packed linear layers, fused layers and convolutions, compared with torch on the same weights."""

from __future__ import annotations

import copy
import ctypes
import itertools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from streamcap.captioner.kernels.packed import (
    FusedLayers,
    LayerWeights,
    PackedLayers,
    PackedLinear,
    can_fuse,
    is_supported,
    matmul,
)
from streamcap.captioner.kernels.packed_convolution import PackedConvolution
from streamcap.captioner.models.vit import ViTConfig, ViTLayer
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captioner.packed_layers import needs_compiler, use_dequantized_weights

pytestmark = needs_compiler


def layers(count: int, *, width: int = 64, heads: int = 4, inner: int = 128, activation: str = "gelu") -> nn.Sequential:
    config = ViTConfig(
        image=32, patch=16, width=width, layers=count, heads=heads, inner=inner, activation=activation,
        epsilon=1e-5, output="states", pre_norm=False, patch_bias=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = nn.Sequential(*(ViTLayer(config) for _ in range(count))).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def layer_weights(model: nn.Sequential) -> list[LayerWeights]:
    return [
        LayerWeights(layer.norm_1, layer.qkv, layer.out, layer.norm_2, layer.fc1, layer.fc2)
        for layer in model
        if isinstance(layer, ViTLayer)
    ]


@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 32, True), (64, 57, False), (192, 1, True)])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (5,), (3, 1), (2, 31)])
@torch.inference_mode()
def test_packed_linear_matches_torch(
    library: ctypes.CDLL, precision: str, shape: tuple[int, ...], inputs: int, outputs: int, bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    packed = PackedLinear(linear, precision)
    x = torch.randn(*shape, inputs)
    expected = F.linear(x, packed.weight(), linear.bias)
    tolerance = 2e-3 if precision == "int8" else 1e-5
    torch.testing.assert_close(packed(x), expected, rtol=tolerance, atol=tolerance)
    rows = x.reshape(-1, inputs)
    actual = matmul(packed, rows, library=library).view(expected.shape)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(packed.weight(), linear.weight, rtol=0, atol=2e-3 if precision == "int8" else 0)


@torch.inference_mode()
def test_copy_of_packed_linear_has_weights_of_its_own(precision: str) -> None:
    packed = PackedLinear(nn.Linear(64, 32), precision)
    x = torch.randn(3, 64)
    expected = packed(x)
    copied = copy.deepcopy(packed)
    packed.qweight.zero_()
    assert torch.equal(copied(x), expected) and not torch.equal(packed(x), expected)


@torch.inference_mode()
def test_row_of_large_values_keeps_other_rows_exact(precision: str) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(64, 64)
    packed = PackedLinear(linear, precision)
    x = torch.randn(8, 64)
    x[0] *= 1000
    torch.testing.assert_close(packed(x)[1:], F.linear(x, packed.weight(), linear.bias)[1:], rtol=2e-3, atol=2e-3)


@torch.inference_mode()
def test_packed_linear_of_non_finite_input_is_nan(precision: str) -> None:
    packed = PackedLinear(nn.Linear(64, 32), precision)
    x = torch.zeros(3, 64)
    x[1, 5] = torch.inf
    assert packed(x).isnan().all()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (1, 50), (3, 7), (2, 65)])
@torch.inference_mode()
def test_fused_layers_match_torch(library: ctypes.CDLL, precision: str, rows: int, count: int, activation: str) -> None:
    model = layers(2, activation=activation)
    packed = PackedLayers(
        FusedLayers(layer_weights(model), heads=4, activation=activation, precision=precision, library=library)
    )
    use_dequantized_weights(model, precision)
    torch.manual_seed(2)
    x = torch.randn(rows, count, 64)
    tolerance = 5e-3 if precision == "int8" else 5e-5
    torch.testing.assert_close(packed(x), model(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (192, 2), (320, 4)])
@torch.inference_mode()
def test_fused_layers_support_any_head_width(library: ctypes.CDLL, precision: str, width: int, heads: int) -> None:
    model = layers(1, width=width, heads=heads, inner=320)
    packed = PackedLayers(
        FusedLayers(layer_weights(model), heads=heads, activation="gelu", precision=precision, library=library)
    )
    use_dequantized_weights(model, precision)
    x = torch.randn(2, 9, width)
    tolerance = 5e-3 if precision == "int8" else 5e-5
    torch.testing.assert_close(packed(x), model(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "output_steps"), [(1, [0]), (1, [0, 3, 8]), (3, [2, 4, 5, 8]), (5, [8])])
@torch.inference_mode()
def test_last_layer_computes_requested_positions_only(
    library: ctypes.CDLL, precision: str, rows: int, output_steps: list[int], threads: int
) -> None:
    fused = FusedLayers(layer_weights(layers(2)), heads=4, activation="gelu", precision=precision, library=library)
    x = torch.randn(rows, 9, 64)
    torch.set_num_threads(threads)
    try:
        actual = fused.run(x, output_steps=torch.tensor(output_steps).expand(rows, -1))
        all_steps = fused.run(x)
        keys, values = torch.zeros(2, 2, rows, 4, 12, 16)
        causal = fused.run(x, keys, values)
        kept = keys.clone(), values.clone()
        last = torch.randint(0, 9, (rows, 1))
        picked = fused.run(x, keys.zero_(), values.zero_(), output_steps=last)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(actual, all_steps[:, output_steps], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(picked, causal.take_along_dim(last[..., None], 1), rtol=1e-5, atol=1e-5)
    assert torch.equal(keys, kept[0]) and torch.equal(values, kept[1])  # of all positions, returned or not


@torch.inference_mode()
def test_fused_layers_propagate_nan(precision: str) -> None:
    packed = PackedLayers(FusedLayers(layer_weights(layers(1)), heads=4, activation="gelu", precision=precision))
    x = torch.zeros(2, 3, 64)
    x[1, 2, 5] = torch.nan
    assert packed(x).isnan().all()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("damaged", "by"), [(slice(0, 128), 1e21), (slice(128, 192), 1e38)])
@torch.inference_mode()
def test_overflow_inside_fused_layers_is_visible(
    library: ctypes.CDLL, precision: str, damaged: slice, by: float, activation: str
) -> None:
    model = layers(2, activation=activation)
    attention = model[0].get_submodule("qkv")
    assert isinstance(attention, nn.Linear)
    attention.weight[damaged] *= by
    fused = FusedLayers(layer_weights(model), heads=4, activation=activation, precision=precision, library=library)
    x = torch.randn(1, 7, 64)
    assert not fused.run(x).isfinite().any()
    cache = torch.zeros(2, 2, 1, 4, 8, 16)
    assert not fused.run(x, cache[0], cache[1]).isfinite().all()


@torch.inference_mode()
def test_empty_batch_gives_empty_output(precision: str) -> None:
    packed = PackedLinear(nn.Linear(64, 32), precision)
    assert packed(torch.empty(0, 64)).shape == (0, 32)
    fused = FusedLayers(layer_weights(layers(1)), heads=4, activation="gelu", precision=precision)
    assert fused.run(torch.empty(0, 5, 64)).shape == (0, 5, 64)


@torch.inference_mode()
def test_default_dtype_does_not_change_results(precision: str) -> None:
    packed = PackedLinear(nn.Linear(64, 32), precision)
    fused = FusedLayers(layer_weights(layers(1)), heads=4, activation="gelu", precision=precision)
    x = torch.randn(1, 6, 64)
    expected = packed(x), fused.run(x)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        actual = packed(x), fused.run(x)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


def test_packed_layers_have_no_gradient(precision: str) -> None:
    x = torch.randn(1, 6, 64, requires_grad=True)
    fused = FusedLayers(layer_weights(layers(1)), heads=4, activation="gelu", precision=precision)
    assert not fused.run(x).requires_grad
    assert not PackedLinear(nn.Linear(64, 32), precision)(x).requires_grad


@torch.inference_mode()
def test_fused_layers_keep_weights_after_module_moves(precision: str) -> None:
    fused = FusedLayers(layer_weights(layers(1)), heads=4, activation="gelu", precision=precision)
    x = torch.randn(1, 6, 64)
    expected = fused.run(x)
    for linear in fused.linears[0]:
        linear.to(torch.float64)
    assert torch.equal(fused.run(x), expected)


@torch.inference_mode()
def test_short_kv_cache_is_refused(precision: str) -> None:
    fused = FusedLayers(layer_weights(layers(1)), heads=4, activation="gelu", precision=precision)
    cache = torch.zeros(2, 1, 2, 4, 6, 16)
    with pytest.raises(IndexError, match="4 positions from 3 on do not fit a cache of 6"):
        fused.run(torch.randn(2, 4, 64), cache[0], cache[1], start=3)
    with pytest.raises(ValueError, match="does not fit 3 rows"):
        fused.run(torch.randn(3, 4, 64), cache[0], cache[1])
    with pytest.raises(ValueError, match="float64"):
        fused.run(torch.randn(2, 4, 64), cache[0].double(), cache[1])


def test_can_fuse_and_is_supported_limits() -> None:
    assert is_supported(nn.Linear(64, 5)) and not is_supported(nn.Linear(60, 64))
    assert can_fuse(layer_weights(layers(2)))
    assert not can_fuse(layer_weights(layers(1, width=64, inner=32)))  # inner width below the width
    assert not can_fuse(layer_weights(layers(1, width=48, heads=3)))  # not a multiple of 64
    uneven = [layers(1), layers(1, inner=192)]
    assert not can_fuse(list(itertools.chain.from_iterable(map(layer_weights, uneven))))


@pytest.mark.parametrize("precision", ["fp32"], scope="session", indirect=True)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(1, 5, 5), (2, 9, 14), (1, 64, 40)])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "before", "after"),
    [(3, 16, 3, 2, 0, 1), (16, 33, 3, 1, 1, 1), (20, 64, 1, 1, 0, 0), (8, 70, 3, 2, 1, 1), (4, 5, 5, 3, 2, 0)],
)
@torch.inference_mode()
def test_packed_convolution_matches_torch(
    library: ctypes.CDLL, channels: int, outputs: int, kernel: int, stride: int, before: int, after: int,
    size: tuple[int, int, int], threads: int,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    batch, height, width = size
    convolution = nn.Conv2d(channels, outputs, kernel, stride, bias=outputs % 2 == 0)
    packed = PackedConvolution(convolution, before, after, library)
    x = torch.randn(batch, channels, height, width)
    expected = convolution(F.pad(x, (before, after, before, after)))
    add = torch.randn_like(expected)
    torch.set_num_threads(threads)
    try:
        actual = [packed(x), packed(x.contiguous(memory_format=torch.channels_last), add, relu=True)]
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(actual[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual[1], (expected + add).relu(), rtol=1e-4, atol=1e-5)


def test_packed_convolution_refuses_other_channel_count() -> None:
    with pytest.raises(ValueError, match="the input has 5 channels, the convolution takes 4"):
        PackedConvolution(nn.Conv2d(4, 8, 3), 1, 1)(torch.zeros(1, 5, 8, 8))


@pytest.mark.slow
def test_kernels_complete_with_fewer_threads() -> None:
    """A container or another library may limit OpenMP's threads."""
    program = """if True:
        import torch
        from torch import nn
        from streamcap.captioner.kernels.packed_convolution import PackedConvolution
        torch.set_num_threads(3)
        convolution, x = nn.Conv2d(16, 32, 3, padding=1), torch.randn(1, 16, 64, 64)
        with torch.inference_mode():
            print(float((PackedConvolution(convolution, 1, 1)(x) - convolution(x)).abs().max()))
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_THREAD_LIMIT": "1"}, capture_output=True, text=True, timeout=TIMEOUT_FACTOR, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 1e-4
