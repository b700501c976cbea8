"""Stored features of the training images, so that mapping and GPT-2 train without running the frozen encoder.

Each real image has several views: the whole image, then crops with mirroring and color jitter. Each synthetic image has
two. The features are float16, in the folder of the run, with the fingerprint of the encoder that made them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from streamcap.atomic import write_json
from streamcap.captioner.models.vision import fingerprint
from streamcap.image_spec import ImageSpec
from streamcap.training.data.arrays import read_array, write_array
from streamcap.training.mini.augment import color_jitter, crop, normalize, random_boxes, small_shifts, whole

BATCH_IMAGES = 50
DRAWN_VIEWS = 2
"""With one view GPT-2 overfits its noise: 88 % of the captions of unseen scenes were right, although the encoder
distinguished 98 % of these scenes."""
_MANIFEST, _REAL, _DRAWN = "features.json", "features-real.npy", "features-drawn.npy"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Grids of N cells of C channels. Memory-mapped."""

    real: npt.NDArray[np.float16]
    """(n, V, N, C): V views of n real images; view 0 is the whole image as it is."""
    drawn: npt.NDArray[np.float16]
    """(m, W, N, C): W views of m synthetic images."""

    def random_real_views(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """One random view of each real image in `rows` (B,): float32 (B, N, C)."""
        views = torch.randint(self.real.shape[1], (len(rows),)).numpy()
        return torch.from_numpy(self.real[rows, views].astype(np.float32))

    def random_drawn_views(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """One random view of each synthetic image in `rows` (B,): float32 (B, N, C)."""
        views = torch.randint(self.drawn.shape[1], (len(rows),)).numpy()
        return torch.from_numpy(self.drawn[rows, views].astype(np.float32))


class StoppedError(Exception):
    """The user stopped the run before all images were encoded."""


def store_features(
    folder: Path,
    vision: nn.Module,
    image_spec: ImageSpec,
    real: Pixels,
    scenes: Pixels,
    views: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> StoredFeatures:
    """Encode real (n, H, W, 3) and synthetic (m, H, W, 3) images, uint8, with `vision`, and store the features.

    Features in `folder` are reused if they are of the same encoder, images and views, else replaced. Raises
    StoppedError between two batches once `stopped` returns True, StreamcapError if the disk is full.
    """
    vision.eval()
    wanted: dict[str, Any] = {
        "encoder": fingerprint(vision),
        "views": views,
        "real": len(real),
        "drawn": len(scenes),
        "drawn_views": DRAWN_VIEWS,
        "image": image_spec.to_json(),
    }
    manifest = folder / _MANIFEST
    if not manifest.is_file() or json.loads(manifest.read_text(encoding="utf-8")) != wanted:
        manifest.unlink(missing_ok=True)
        # The random numbers of the stage must not depend on whether its features were stored already.
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(views)
            grid = _encode(vision, image_spec, torch.zeros(1, 3, image_spec.height, image_spec.width)).shape[1:]
            _write(folder / _REAL, (len(real), views, *grid), _real_views(vision, image_spec, real, views), stopped)
            _write(
                folder / _DRAWN, (len(scenes), DRAWN_VIEWS, *grid), _drawn_views(vision, image_spec, scenes), stopped
            )
        write_json(manifest, wanted)
    return StoredFeatures(read_array(folder / _REAL), read_array(folder / _DRAWN))


def _write(
    path: Path, shape: tuple[int, ...], parts: Iterator[npt.NDArray[np.float16]], stopped: Callable[[], bool]
) -> None:
    def until_stopped() -> Iterator[npt.NDArray[np.float16]]:
        for part in parts:
            if stopped():
                raise StoppedError
            yield part

    write_array(path, np.float16, shape, until_stopped())


def _real_views(
    vision: nn.Module, image_spec: ImageSpec, pixels: Pixels, views: int
) -> Iterator[npt.NDArray[np.float16]]:
    """(B, V, N, C) of consecutive batches."""
    # Large crops: of a small part of an image, its caption is often not true.
    boxes = [random_boxes(len(pixels), 0.6) if view else whole(len(pixels)) for view in range(views)]
    step = max(1, BATCH_IMAGES // views)
    for start in range(0, len(pixels), step):
        batch = np.array(pixels[start : start + step])
        planes = []
        for view in range(views):
            mirrored = torch.rand(len(batch)) < (0.5 if view else 0.0)
            cropped = crop(batch, boxes[view][start : start + step], mirrored, image_spec.width)
            planes.append(color_jitter(cropped, 0.8) if view else cropped)
        grids = _encode(vision, image_spec, torch.stack(planes, 1).flatten(0, 1))
        yield grids.reshape(len(batch), views, *grids.shape[1:])


def _drawn_views(vision: nn.Module, image_spec: ImageSpec, pixels: Pixels) -> Iterator[npt.NDArray[np.float16]]:
    """(B, W, N, C) of consecutive batches."""
    step = BATCH_IMAGES // DRAWN_VIEWS
    for start in range(0, len(pixels), step):
        batch = np.repeat(pixels[start : start + step], DRAWN_VIEWS, 0)
        mirrored = torch.rand(len(batch)) < 0.5
        cropped = crop(batch, small_shifts(len(batch), 0.06), mirrored, image_spec.width)
        grids = _encode(vision, image_spec, color_jitter(cropped, 0.35))
        yield grids.reshape(-1, DRAWN_VIEWS, *grids.shape[1:])


def _encode(vision: nn.Module, image_spec: ImageSpec, planes: Tensor) -> npt.NDArray[np.float16]:
    grid: Tensor = vision(normalize(planes, image_spec))
    half: npt.NDArray[np.float16] = grid.half().numpy()
    return half
