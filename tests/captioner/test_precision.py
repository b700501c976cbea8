"""What precision a machine is given, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from streamcap.captioner import precision, quantized
from streamcap.captioner.coded import PackedLinear
from streamcap.captioner.precision import convert, find_device, find_precision
from streamcap.captioner.quantized import Int8Linear
from streamcap.errors import InputError
from tests.captioner.layers import needs_compiler

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_on_a_cpu_is_int8_only_where_full_bytes_multiply_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "engine", lambda: "x86")
    monkeypatch.setattr(quantized, "int8_saturates", lambda: False)
    assert find_precision("auto", CPU) == "int8"
    monkeypatch.setattr(quantized, "int8_saturates", lambda: True)
    assert find_precision("auto", CPU) == "fp32"
    monkeypatch.setattr(quantized, "engine", lambda: None)
    assert find_precision("auto", CPU) == "fp32"
    with pytest.raises(InputError, match="int8 needs a torch with FBGEMM"):
        find_precision("int8", CPU)


@needs_compiler
def test_no_layer_beside_the_compiled_ones_gets_seven_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def mapping() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 64))

    monkeypatch.setattr(quantized, "int8_saturates", lambda: True)
    assert [type(layer) for layer in convert(mapping(), "int8", CPU)] == [PackedLinear, nn.Tanh, nn.Linear]
    monkeypatch.setattr(quantized, "int8_saturates", lambda: False)
    assert [type(layer) for layer in convert(mapping(), "int8", CPU)] == [PackedLinear, nn.Tanh, Int8Linear]


def test_auto_on_a_gpu_is_half_precision() -> None:
    assert find_precision("auto", CUDA) == "fp16"


def test_formats_of_other_devices_are_refused() -> None:
    with pytest.raises(InputError, match="fp16 is not to be had on cpu; it is auto or fp32, bf16, int8"):
        find_precision("fp16", CPU)
    with pytest.raises(InputError, match="int8 is not to be had on cuda"):
        find_precision("int8", CUDA)
    with pytest.raises(InputError, match="'int3' is unknown"):
        find_precision("int3", CPU)


def test_bf16_is_refused_without_its_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    with pytest.raises(InputError, match="this cpu has no bf16 arithmetic; use fp32 here"):
        find_precision("bf16", CPU)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        find_device(name)
