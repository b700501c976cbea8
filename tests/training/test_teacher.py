"""The teacher, with a stand-in at the interface of the runtime: a tflite file of that network cannot be made here."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamcap.errors import InputError
from streamcap.training import teacher
from streamcap.training.teacher import Teacher, random_boxes, read_lesson, write_lesson

SHAPES = {
    170: (1, 7, 7, teacher.MAP_CHANNELS),
    172: (1, 1, 1, teacher.POOLED_CHANNELS),
    173: (1, teacher.CLASSES),
}


class Interpreter:
    """What `ai_edge_litert` offers of it. Its map holds the mean colour of each cell; logits are 3, 4, 5, …"""

    shapes = SHAPES

    def __init__(self, path: str, **options: Any) -> None:
        assert options["experimental_preserve_all_tensors"]
        self.seen: np.ndarray | None = None

    def allocate_tensors(self) -> None: ...

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"index": 0}]

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "shape": np.array(shape), "quantization": (0.5, 2)} for index, shape in self.shapes.items()
        ]

    def set_tensor(self, index: int, pixels: np.ndarray) -> None:
        assert (index, pixels.shape, pixels.dtype) == (0, (1, 224, 224, 3), np.uint8)
        self.seen = pixels[0]

    def invoke(self) -> None: ...

    def get_tensor(self, index: int) -> np.ndarray:
        assert self.seen is not None
        if index == 170:
            cells = self.seen.reshape(7, 32, 7, 32, 3).mean((1, 3, 4)) / 2
            return np.broadcast_to(cells[None, :, :, None], SHAPES[170]).astype(np.int8)
        if index == 172:
            return np.full(SHAPES[172], self.seen.mean() / 2, np.int8)
        return (np.arange(teacher.CLASSES) % 100 + 3).astype(np.int8)[None]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    path = tmp_path / "teacher.tflite"
    path.write_bytes(b"stand-in")
    return path


def test_the_teacher_sees_the_box_and_its_map_lies_as_the_picture_does(network: Path) -> None:
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:48, 48:] = 200
    maps, pooled, logits = Teacher(network).teach(picture, np.array([0, 0, 1, 1], np.float32))
    assert maps.shape == (teacher.MAP_CHANNELS, 7, 7) and maps.dtype == np.int8
    assert maps[5, 0, 6] == 100 and maps[5, 6, 0] == 0 and maps[5, 0, 0] == 0
    assert pooled.shape == (teacher.POOLED_CHANNELS,)
    # Logits are numbers, not the file's integers: (value - zero point) * scale.
    assert logits.dtype == np.float16 and logits[:3].tolist() == [0.5, 1.0, 1.5]
    corner, _, _ = Teacher(network).teach(picture, np.array([0.5, 0, 1, 0.5], np.float32))
    # Pillow's filter reaches a little over the box's edge.
    assert corner.min() > 90 and corner[5, 3, 3] == 100


def test_boxes_lie_in_the_picture_and_are_the_same_for_one_view() -> None:
    assert random_boxes(3, 0).tolist() == [[0, 0, 1, 1]] * 3
    for view, smallest in ((1, 0.3), (2, 0.55)):
        left, top, right, bottom = random_boxes(500, view).T
        assert left.min() >= 0 and top.min() >= 0 and right.max() <= 1 + 1e-6 and bottom.max() <= 1 + 1e-6
        assert ((right - left) * (bottom - top)).min() > smallest
        assert np.array_equal(random_boxes(500, view), random_boxes(500, view))
    assert not np.array_equal(random_boxes(5, 1), random_boxes(5, 3))


def test_a_lesson_is_read_as_it_was_written(network: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assert read_lesson(tmp_path, 1) is None
    written = write_lesson(tmp_path, Teacher(network), pictures, 1)
    found = read_lesson(tmp_path, 1)
    assert found is not None
    assert np.array_equal(found.boxes, random_boxes(3, 1))
    maps, pooled, logits = Teacher(network).teach(pictures[2], found.boxes[2])
    for lesson in (written, found):
        assert np.array_equal(lesson.maps[2], maps)
        assert np.array_equal(lesson.pooled[2], pooled)
        assert np.array_equal(lesson.logits[2], logits)


def test_a_lesson_that_was_stopped_is_none(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its boxes come last, whenever the stop comes."""
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    write = teacher.write_array

    def stop_at_the_boxes(path: Path, *more: Any) -> None:
        if path.name.startswith("boxes"):
            raise KeyboardInterrupt
        write(path, *more)

    monkeypatch.setattr(teacher, "write_array", stop_at_the_boxes)
    with pytest.raises(KeyboardInterrupt):
        write_lesson(tmp_path, Teacher(network), pictures, 0)
    assert read_lesson(tmp_path, 0) is None


def test_another_network_is_told(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interpreter, "shapes", SHAPES | {170: (1, 7, 7, 96)})
    with pytest.raises(InputError, match="tensor 170 has not 320 channels"):
        Teacher(network)
    monkeypatch.setattr(Interpreter, "shapes", {170: SHAPES[170]})
    with pytest.raises(InputError, match="tensor 172"):
        Teacher(network)


def test_a_file_that_is_no_network_is_told(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Interpreter, path: str, **options: Any) -> None:
        raise ValueError("Model provided has model identifier 'stan', should be 'TFL3'\n")

    monkeypatch.setattr(Interpreter, "__init__", refuse)
    with pytest.raises(InputError, match=r"teacher\.tflite: not a network .*TFL3") as raised:
        Teacher(network)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_missing_runtime_are_told(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tflite: no such teacher"):
        Teacher(tmp_path / "nowhere.tflite")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(InputError, match="the package ai-edge-litert"):
        Teacher(network)
