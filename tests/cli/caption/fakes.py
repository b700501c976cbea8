"""A fake captioner for `streamcap caption`, and what its tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from streamcap.captioner import Result, SearchOptions
from streamcap.image_spec import ImageSpec
from tests.media.numbered_frames import read_number

if TYPE_CHECKING:
    import torch

Run = Callable[..., tuple[int, str, str]]


COUNT = 40


STAMPS = [40 * number + 200 * (number // 9) for number in range(COUNT)]


class Reader:
    """A fake captioner: returns the number that an image shows."""

    def __init__(self, clip_length: int | None = None) -> None:
        self.image_spec = ImageSpec(60, 20, fit="squash")
        self.info = {"family": "reader"}
        self.clip_length = clip_length
        self.batches: list[int] = []

    def encode(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        import torch  # not while tests are collected: `make check-fast` loads no torch

        self.batches.append(len(pixels))
        assert pixels.shape[-3:] == (20, 60, 3)
        flat = pixels.reshape(-1, 20, 60, 3)
        return torch.tensor([read_number(image_spec) for image_spec in flat]).reshape(len(pixels), -1)

    def decode(self, embeddings: torch.Tensor, search: SearchOptions) -> list[Result]:
        return [self._result(row, f"beam {search.beam_size} ") for row in embeddings]

    def decoder(self, search: SearchOptions, *, max_rows: int) -> Any:
        waiting: dict[int, torch.Tensor] = {}
        decoder = SimpleNamespace(active=0)

        def add(key: int, row: torch.Tensor) -> None:
            waiting[key] = row
            decoder.active += 1

        def step() -> list[tuple[int, Result]]:
            # Out of order, and in several batches.
            key, row = waiting.popitem()
            decoder.active -= 1
            return [(key, self._result(row, "" if search.temperature == 0 else f"seed {search.seed} "))]

        decoder.add, decoder.step = add, step
        return decoder

    def require_text(self) -> None: ...

    @staticmethod
    def _result(row: torch.Tensor, before: str) -> Result:
        numbers = " ".join(str(int(number)) for number in row)
        return Result(f"{before}number {numbers}", [1, 2], -0.5, 0.75)


def load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
