"""The teacher of distillation: its feature maps and logits, which the vision encoder learns to reproduce.

The teacher is an ImageNet MobileNetV2 as a quantized tflite file, run by `ai-edge-litert`. Its weights are not part of
the trained model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.errors import InputError

MAP_TENSORS = (119, 130, 145, 156, 167, 170)
"""Tensors of google-coral's mobilenet_v2_1.0_224_ptq.tflite: the linear outputs of its blocks 3, 6, 10, 13, 16, 17, at
1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the image's sides."""
MAP_CHANNELS = (24, 32, 64, 96, 160, 320)
LOGITS_TENSOR, CLASSES = 173, 1001
POOLED_CHANNELS = 1280
"""Width of the teacher's last layer before its logits."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TeacherOutput:
    """The teacher's output for B images."""

    maps: Sequence[Tensor]
    """(B, C, h, w) each, in the order of MAP_TENSORS."""
    logits: Tensor
    """(B, CLASSES)."""


class Teacher(Protocol):
    """The interface of a teacher that training needs."""

    def features(self, images: Pixels) -> TeacherOutput:
        """images: uint8 (B, S, S, 3), S the side that the teacher was opened for."""
        ...


class TfliteTeacher:
    """The network in `path`, for images of `side` × `side` pixels, on `threads` threads.

    Raises InputError if the file or the package `ai-edge-litert` is missing, or the file holds another network.
    """

    def __init__(self, path: Path, side: int, threads: int = 2) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise InputError(
                "--teacher needs the package ai-edge-litert: pip install '.[teacher]', or leave out --teacher"
            ) from None
        if not path.is_file():
            raise InputError(f"{path}: no such teacher (a tflite file)")
        self._interpreters = [_open(Interpreter, path, side) for _ in range(threads)]
        self._input: int = self._interpreters[0].get_input_details()[0]["index"]
        details = {tensor["index"]: tensor for tensor in self._interpreters[0].get_tensor_details()}
        wanted = dict(zip(MAP_TENSORS, MAP_CHANNELS, strict=True))
        wanted[LOGITS_TENSOR] = CLASSES
        for index, channels in wanted.items():
            if index not in details or int(details[index]["shape"][-1]) != channels:
                raise InputError(f"{path}: another network: its tensor {index} does not have {channels} channels")
        self._scales: dict[int, tuple[float, int]] = {index: details[index]["quantization"] for index in wanted}
        self._threads = ThreadPoolExecutor(threads, "teacher")

    def features(self, images: Pixels) -> TeacherOutput:
        """images: uint8 (B, side, side, 3)."""
        parts = np.array_split(images, len(self._interpreters))
        # Each thread has its own interpreter, which releases Python's lock while it runs.
        outputs = [one for part in self._threads.map(self._infer, self._interpreters, parts) for one in part]

        def dequantized(index: int) -> Tensor:
            scale, zero = self._scales[index]
            return (torch.from_numpy(np.concatenate([one[index] for one in outputs])).float() - zero) * scale

        return TeacherOutput(
            # (B, h, w, C) seen as (B, C, h, w): the channels stay last in memory.
            [dequantized(index).permute(0, 3, 1, 2) for index in MAP_TENSORS],
            dequantized(LOGITS_TENSOR).flatten(1),
        )

    def _infer(self, interpreter: Any, images: Pixels) -> list[dict[int, npt.NDArray[np.int8]]]:
        """For each image, its quantized tensors by index."""
        outputs = []
        for image in images:
            interpreter.set_tensor(self._input, image[None])
            interpreter.invoke()
            outputs.append({index: interpreter.get_tensor(index) for index in self._scales})
        return outputs


def _open(interpreter: Any, path: Path, side: int) -> Any:
    with warnings.catch_warnings():
        # The runtime warns that keeping inner tensors is for debugging only; the maps are inner tensors.
        warnings.simplefilter("ignore")
        try:
            run = interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=1)
            run.resize_tensor_input(run.get_input_details()[0]["index"], [1, side, side, 3])
            run.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not a loadable tflite file ({str(error).splitlines()[0]})") from None
    return run
