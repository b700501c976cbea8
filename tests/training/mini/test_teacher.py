"""The teacher, with a stand-in at the interface of the runtime: a tflite file of that network cannot be made here."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamcap.errors import InputError
from streamcap.training.mini import teacher
from streamcap.training.mini.teacher import TfliteTeacher

SIDE = 64
SHAPES = {
    index: (1, SIDE // cell, SIDE // cell, channels)
    for index, cell, channels in zip(teacher.MAP_TENSORS, (4, 8, 16, 16, 32, 32), teacher.MAP_CHANNELS, strict=True)
} | {teacher.LOGITS_TENSOR: (1, 1, 1, teacher.CLASSES)}


class Interpreter:
    """What `ai_edge_litert` offers of it. Its maps hold the mean brightness of each cell; logits are 3, 4, 5, …"""

    shapes = SHAPES

    def __init__(self, path: str, **options: Any) -> None:
        assert options["experimental_preserve_all_tensors"]
        self.seen: np.ndarray | None = None

    def resize_tensor_input(self, index: int, shape: list[int]) -> None:
        assert (index, shape) == (0, [1, SIDE, SIDE, 3])

    def allocate_tensors(self) -> None: ...

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"index": 0}]

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "shape": np.array(shape), "quantization": (0.5, 2)} for index, shape in self.shapes.items()
        ]

    def set_tensor(self, index: int, pixels: np.ndarray) -> None:
        assert (index, pixels.shape, pixels.dtype) == (0, (1, SIDE, SIDE, 3), np.uint8)
        self.seen = pixels[0]

    def invoke(self) -> None: ...

    def get_tensor(self, index: int) -> np.ndarray:
        assert self.seen is not None
        if index == teacher.LOGITS_TENSOR:
            return (np.arange(teacher.CLASSES) % 100 + 3).astype(np.int8)[None, None, None]
        side = SHAPES[index][1]
        cells = self.seen.reshape(side, SIDE // side, side, SIDE // side, 3).mean((1, 3, 4)) / 2
        return np.broadcast_to(cells[None, :, :, None], SHAPES[index]).astype(np.int8)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    path = tmp_path / "teacher.tflite"
    path.write_bytes(b"stand-in")
    return path


def test_teacher_keeps_order_and_map_orientation(network: Path) -> None:
    images = np.zeros((5, SIDE, SIDE, 3), np.uint8)
    for i in range(5):
        images[i, :32, 32:] = 40 * i
    features = TfliteTeacher(network, SIDE).features(images)
    assert [tuple(one.shape) for one in features.maps] == [
        (5, 24, 16, 16), (5, 32, 8, 8), (5, 64, 4, 4), (5, 96, 4, 4), (5, 160, 2, 2), (5, 320, 2, 2)
    ]  # fmt: skip
    # Numbers, not the file's integers: (value - zero point) * scale.
    for maps in features.maps:
        assert maps[:, 7, 0, -1].tolist() == [(20 * i - 2) * 0.5 for i in range(5)]
        assert (maps[:, :, -1] == -1).all() and (maps[:, :, 0, 0] == -1).all()
    assert features.logits[2, :3].tolist() == [0.5, 1.0, 1.5] and features.logits.shape == (5, teacher.CLASSES)
    # More threads than images.
    assert torch.equal(TfliteTeacher(network, SIDE, threads=3).features(images[2:4]).maps[0], features.maps[0][2:4])


def test_other_network_is_refused(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interpreter, "shapes", SHAPES | {170: (1, 2, 2, 96)})
    with pytest.raises(InputError, match="tensor 170 does not have 320 channels"):
        TfliteTeacher(network, SIDE)
    monkeypatch.setattr(Interpreter, "shapes", {index: SHAPES[index] for index in teacher.MAP_TENSORS})
    with pytest.raises(InputError, match=f"tensor {teacher.LOGITS_TENSOR}"):
        TfliteTeacher(network, SIDE)


def test_invalid_network_file_is_refused(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Interpreter, path: str, **options: Any) -> None:
        raise ValueError("Model provided has model identifier 'stan', should be 'TFL3'\n")

    monkeypatch.setattr(Interpreter, "__init__", refuse)
    with pytest.raises(InputError, match=r"teacher\.tflite: not a loadable .*TFL3") as raised:
        TfliteTeacher(network, SIDE)
    assert "\n" not in str(raised.value)


def test_missing_file_or_runtime_is_reported(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tflite: no such teacher"):
        TfliteTeacher(tmp_path / "nowhere.tflite", SIDE)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(InputError, match="the package ai-edge-litert"):
        TfliteTeacher(network, SIDE)
