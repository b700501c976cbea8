"""The choice of device and precision, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from streamcap.captioner import load_captioner
from streamcap.captioner.kernels import int8_torch, precision
from streamcap.captioner.kernels.int8_torch import Int8Linear
from streamcap.captioner.kernels.packed import PackedLinear
from streamcap.captioner.kernels.precision import convert, find_device, find_precision
from streamcap.errors import InputError
from tests.captioner.packed_layers import needs_compiler

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_on_cpu_is_int8_only_with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_torch, "engine", lambda: "x86")
    monkeypatch.setattr(int8_torch, "int8_saturates", lambda: False)
    assert find_precision("auto", CPU) == "int8"
    monkeypatch.setattr(int8_torch, "int8_saturates", lambda: True)
    assert find_precision("auto", CPU) == "fp32"
    monkeypatch.setattr(int8_torch, "engine", lambda: None)
    assert find_precision("auto", CPU) == "fp32"
    monkeypatch.setenv("STREAMCAP_KERNELS", "off")
    with pytest.raises(InputError, match="int8 needs the compiled kernels, or a torch with FBGEMM"):
        find_precision("int8", CPU)


@needs_compiler
def test_auto_for_native_checkpoints_is_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_torch, "int8_saturates", lambda: True)
    assert find_precision("auto", CPU, native=True) == "int8"
    assert load_captioner("mini", device="cpu").info["precision"] == "int8"
    monkeypatch.setenv("STREAMCAP_KERNELS", "off")
    assert find_precision("auto", CPU, native=True) == "fp32"


@needs_compiler
def test_int8_needs_no_torch_with_int8_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_torch, "engine", lambda: None)
    assert find_precision("int8", CPU) == "int8"
    layers = convert(nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 64)), "int8", CPU)
    assert [type(layer) for layer in layers] == [PackedLinear, nn.Linear]


@needs_compiler
def test_saturating_cpu_leaves_small_layers_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    def mapping() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 64))

    monkeypatch.setattr(int8_torch, "int8_saturates", lambda: True)
    assert [type(layer) for layer in convert(mapping(), "int8", CPU)] == [PackedLinear, nn.Tanh, nn.Linear]
    monkeypatch.setattr(int8_torch, "int8_saturates", lambda: False)
    assert [type(layer) for layer in convert(mapping(), "int8", CPU)] == [PackedLinear, nn.Tanh, Int8Linear]


def test_auto_on_gpu_is_half_precision() -> None:
    assert find_precision("auto", CUDA) == "fp16"


def test_precision_of_other_device_is_refused() -> None:
    with pytest.raises(InputError, match="fp16 is not supported on cpu; use auto or fp32, bf16, int8"):
        find_precision("fp16", CPU)
    with pytest.raises(InputError, match="int8 is not supported on cuda"):
        find_precision("int8", CUDA)
    with pytest.raises(InputError, match="'int3' is unknown"):
        find_precision("int3", CPU)


def test_bf16_without_hardware_support_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    with pytest.raises(InputError, match="this cpu has no bf16 arithmetic; use fp32 here"):
        find_precision("bf16", CPU)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99"])
def test_missing_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="device"):
        find_device(name)
