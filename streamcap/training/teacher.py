"""What a teacher network makes of many crops of every picture, for a vision encoder of ours to learn from.

The teacher is an ImageNet MobileNetV2 as a quantised tflite file, run by `ai-edge-litert`. It teaches and is not
shipped: only what it says of the training pictures is kept, beside the run.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from streamcap.errors import InputError
from streamcap.training.arrays import read_array, write_array

INPUT_PIXELS = 224
MAP_TENSOR, POOLED_TENSOR, LOGITS_TENSOR = 170, 172, 173
"""Tensors of google-coral's mobilenet_v2_1.0_224_ptq.tflite: the 7 x 7 x 320 map, the pooled 1280, the 1001 logits."""
MAP_CHANNELS, POOLED_CHANNELS, CLASSES = 320, 1280, 1001

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher says of one view of n pictures; maps and pooled as the file's own integers."""

    boxes: Boxes
    """(n, 4): left, top, right, bottom of the view, in units of the picture's sides."""
    maps: npt.NDArray[np.int8]
    """(n, 320, 7, 7)."""
    pooled: npt.NDArray[np.int8]
    """(n, 1280)."""
    logits: npt.NDArray[np.float16]
    """(n, 1001)."""


class Teacher:
    """The network. Raises InputError where its file or its runtime is missing."""

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise InputError("the teacher needs the package ai-edge-litert; install it, or teach without") from None
        if not path.is_file():
            raise InputError(f"{path}: no such teacher (a tflite file)")
        with warnings.catch_warnings():
            # Keeping inner tensors is "for debugging": they are what the teacher is for.
            warnings.simplefilter("ignore")
            try:
                self._run = Interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=1)
                self._run.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise InputError(
                    f"{path}: not a network that the runtime takes ({str(error).splitlines()[0]})"
                ) from None
        self._input: int = self._run.get_input_details()[0]["index"]
        details = {tensor["index"]: tensor for tensor in self._run.get_tensor_details()}
        wanted = {MAP_TENSOR: MAP_CHANNELS, POOLED_TENSOR: POOLED_CHANNELS, LOGITS_TENSOR: CLASSES}
        for index, channels in wanted.items():
            if index not in details or int(details[index]["shape"][-1]) != channels:
                raise InputError(f"{path}: tensor {index} has not {channels} channels; this is another network")
        self._scales: dict[int, tuple[float, int]] = {index: details[index]["quantization"] for index in wanted}

    def teach(self, picture: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> tuple[Any, Any, Any]:
        """Map and pooled as int8, logits as float16, of the part of `picture` (H, W, 3) in `box`."""
        height, width = picture.shape[:2]
        left, top, right, bottom = (float(value) for value in box)
        part = Image.fromarray(picture).resize(
            (INPUT_PIXELS, INPUT_PIXELS),
            Image.Resampling.BILINEAR,
            box=(left * width, top * height, right * width, bottom * height),
        )
        self._run.set_tensor(self._input, np.asarray(part)[None])
        self._run.invoke()
        maps = self._run.get_tensor(MAP_TENSOR)[0].transpose(2, 0, 1)
        pooled = self._run.get_tensor(POOLED_TENSOR).reshape(-1)
        scale, zero = self._scales[LOGITS_TENSOR]
        logits = (self._run.get_tensor(LOGITS_TENSOR).reshape(-1).astype(np.float32) - zero) * scale
        return maps, pooled, logits.astype(np.float16)


def random_boxes(count: int, view: int) -> Boxes:
    """The crops of view number `view`: 0 is the whole picture, odd ones reach down to a third of it, even ones to more
    than half; sides vary by up to a third."""
    if view == 0:
        return np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
    rng = np.random.default_rng(view)
    area, aspect = rng.uniform(0.35 if view % 2 else 0.6, 1, count), np.exp(rng.uniform(-0.28, 0.28, count))
    width, height = np.minimum(1, np.sqrt(area * aspect)), np.minimum(1, np.sqrt(area / aspect))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return np.stack([left, top, left + width, top + height], 1).astype(np.float32)


def write_lesson(folder: Path, teacher: Teacher, pictures: npt.NDArray[np.uint8], view: int) -> Lesson:
    """Let the teacher look at view number `view` of all pictures (n, H, W, 3). Written whole or not at all."""
    count = len(pictures)
    boxes = random_boxes(count, view)
    maps = np.zeros((count, MAP_CHANNELS, 7, 7), np.int8)
    pooled = np.zeros((count, POOLED_CHANNELS), np.int8)
    logits = np.zeros((count, CLASSES), np.float16)
    for i in range(count):
        maps[i], pooled[i], logits[i] = teacher.teach(pictures[i], boxes[i])
    for name, array in (("maps", maps), ("pooled", pooled), ("logits", logits), ("boxes", boxes)):
        write_array(folder / f"{name}{view}.npy", array.dtype, array.shape, [array])
    return _memory_mapped(folder, view)


def read_lesson(folder: Path, view: int) -> Lesson | None:
    """Memory-mapped; None where it is not there yet."""
    # The boxes are written last: where they are, all is.
    if not (folder / f"boxes{view}.npy").is_file():
        return None
    return _memory_mapped(folder, view)


def _memory_mapped(folder: Path, view: int) -> Lesson:
    names = ("boxes", "maps", "pooled", "logits")
    return Lesson(*(read_array(folder / f"{name}{view}.npy") for name in names))
