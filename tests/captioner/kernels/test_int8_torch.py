"""Int8 layers against the same layers in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from streamcap.captioner import load_captioner
from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.kernels import int8_torch
from streamcap.captioner.kernels.int8_torch import Int8Linear, quantize
from tests.captioner.tiny_models import gpt2

pytestmark = pytest.mark.skipif(int8_torch.engine() is None, reason="this torch has no int8 matmul")


def error(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Root mean square of the difference, divided by that of the expected values."""
    return float((expected - actual).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (5, 64), (3, 1, 64), (2, 7, 64)])
def test_int8_linear_of_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    quantize(nn.Sequential(linear))
    x = torch.randn(shape)
    with torch.inference_mode():
        found = Int8Linear(linear)(x)
        assert found.shape == linear(x).shape
        assert error(linear(x), found) < 0.02


def test_full_range_activations_do_not_saturate() -> None:
    linear = nn.Linear(256, 16, bias=False)
    quantize(nn.Sequential(linear))
    with torch.inference_mode():
        nn.init.ones_(linear.weight)
        torch.testing.assert_close(
            Int8Linear(linear)(torch.ones(1, 256)), torch.full((1, 16), 256.0), rtol=0.01, atol=0
        )


def test_outlier_position_keeps_other_positions_exact() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(64, 64)
    quantize(nn.Sequential(linear))
    x = torch.randn(1, 8, 64)
    x[0, 0] *= 1000
    with torch.inference_mode():
        assert error(linear(x)[:, 1:], Int8Linear(linear)(x)[:, 1:]) < 0.02


def test_transformer_encoder_layer_is_not_quantized() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    model = nn.Sequential(nn.Linear(16, 16), layer)
    quantize(model)
    assert isinstance(model[0], Int8Linear) and type(layer.linear1) is nn.Linear
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 16)).shape == (1, 3, 16)


def test_int8_logits_are_close_with_torchscript(caplog: pytest.LogCaptureFixture) -> None:
    reference = gpt2(1)
    decoders = [load_gpt2(reference.state_dict(), reference.config.to_dict(), "test", prefix="") for _ in range(3)]
    quantize(decoders[1])
    quantize(decoders[2])
    decoders[2].compile()
    assert not caplog.records  # a module that TorchScript cannot compile is called directly, with a warning
    torch.manual_seed(2)
    prefix = 0.3 * torch.randn(2, 6, 64)
    found = []
    with torch.inference_mode():
        for decoder in decoders:
            cache = decoder.new_cache(rows=2, positions=16)
            hidden, _ = decoder.prefill(prefix, [6, 6], cache)
            found.append(torch.cat((decoder.logits(hidden), decoder.logits(decoder.step(torch.tensor([5, 9]), cache)))))
    assert error(found[0], found[1]) < 0.1
    torch.testing.assert_close(found[1], found[2], rtol=1e-4, atol=1e-4)


def test_mini_in_int8() -> None:
    captioner = load_captioner("mini", device="cpu", precision="int8")
    assert captioner.info["precision"] == "int8"
    width, height = captioner.image_spec.size
    (result,) = captioner.caption([torch.zeros(height, width, 3, dtype=torch.uint8).numpy()])
    assert result.text
