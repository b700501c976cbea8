"""What a teacher network makes of images, for a vision encoder of ours to follow.

The teacher is an ImageNet MobileNetV2 as a quantised tflite file, run by `ai-edge-litert`. It teaches and is not
shipped: its weights are neither kept nor copied.
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
"""Tensors of google-coral's mobilenet_v2_1.0_224_ptq.tflite: the linear maps behind its blocks 3, 6, 10, 13, 16, 17, at
1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the image's sides."""
MAP_CHANNELS = (24, 32, 64, 96, 160, 320)
LOGITS_TENSOR, CLASSES = 173, 1001
POOLED_CHANNELS = 1280
"""Of the vector that the logits are a linear product of."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TeacherOutput:
    """What the teacher makes of B images."""

    maps: Sequence[Tensor]
    """(B, C, h, w) each, in its own order of depth."""
    logits: Tensor
    """(B, CLASSES)."""


class Teacher(Protocol):
    """A teacher, as training asks it."""

    def features(self, images: Pixels) -> TeacherOutput:
        """uint8 (B, S, S, 3), S the side it was opened for."""
        ...


class TfliteTeacher:
    """The network for images of `side` pixels, in `threads` threads. Raises InputError where its file or its runtime
    is missing, or the file is of another network."""

    def __init__(self, path: Path, side: int, threads: int = 2) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise InputError("the teacher needs the package ai-edge-litert; install it, or teach without") from None
        if not path.is_file():
            raise InputError(f"{path}: no such teacher (a tflite file)")
        self._runs = [_open(Interpreter, path, side) for _ in range(threads)]
        self._input: int = self._runs[0].get_input_details()[0]["index"]
        details = {tensor["index"]: tensor for tensor in self._runs[0].get_tensor_details()}
        wanted = dict(zip(MAP_TENSORS, MAP_CHANNELS, strict=True))
        wanted[LOGITS_TENSOR] = CLASSES
        for index, channels in wanted.items():
            if index not in details or int(details[index]["shape"][-1]) != channels:
                raise InputError(f"{path}: tensor {index} has not {channels} channels; this is another network")
        self._scales: dict[int, tuple[float, int]] = {index: details[index]["quantization"] for index in wanted}
        self._threads = ThreadPoolExecutor(threads, "teacher")

    def features(self, images: Pixels) -> TeacherOutput:
        """uint8 (B, side, side, 3)."""
        parts = np.array_split(images, len(self._runs))
        # Each thread has its own copy of the network; the runtime lets go of Python's lock while it runs.
        outputs = [one for part in self._threads.map(self._outputs_of, self._runs, parts) for one in part]

        def gathered(index: int) -> Tensor:
            scale, zero = self._scales[index]
            return (torch.from_numpy(np.concatenate([one[index] for one in outputs])).float() - zero) * scale

        return TeacherOutput(
            # From the channels last, which it is in memory, and stays.
            [gathered(index).permute(0, 3, 1, 2) for index in MAP_TENSORS],
            gathered(LOGITS_TENSOR).flatten(1),
        )

    def _outputs_of(self, run: Any, images: Pixels) -> list[dict[int, npt.NDArray[np.int8]]]:
        outputs = []
        for image in images:
            run.set_tensor(self._input, image[None])
            run.invoke()
            outputs.append({index: run.get_tensor(index) for index in self._scales})
        return outputs


def _open(interpreter: Any, path: Path, side: int) -> Any:
    with warnings.catch_warnings():
        # Keeping inner tensors is "for debugging": they are what the teacher is for.
        warnings.simplefilter("ignore")
        try:
            run = interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=1)
            run.resize_tensor_input(run.get_input_details()[0]["index"], [1, side, side, 3])
            run.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not a network that the runtime takes ({str(error).splitlines()[0]})") from None
    return run
