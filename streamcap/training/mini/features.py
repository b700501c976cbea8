"""What a frozen vision encoder makes of the training images, kept so that mapping and GPT-2 learn without it.

Of every real image several views (the whole image first, then crops, mirrored and recoloured), of every drawn one
two. They are kept in half precision beside the run, with the fingerprint of the encoder that made them.
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

PICTURES_A_PASS = 50
DRAWN_VIEWS = 2
"""With one view GPT-2 overfits its noise: the encoder told 98 % of unseen scenes apart, captions were 88 % right."""
_TOLD, _REAL, _DRAWN = "features.json", "features-real.npy", "features-drawn.npy"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Grids of N cells of C channels. Memory-mapped."""

    real: npt.NDArray[np.float16]
    """(n, V, N, C): V views of n real images; view 0 is the whole image as it is."""
    drawn: npt.NDArray[np.float16]
    """(m, W, N, C): W views of m drawn images."""

    def some_views(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """One view, by chance, of each real image in `rows`: float32 (B, N, C)."""
        views = torch.randint(self.real.shape[1], (len(rows),)).numpy()
        return torch.from_numpy(self.real[rows, views].astype(np.float32))

    def scenes(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """One view, by chance, of each drawn image in `rows`: float32 (B, N, C)."""
        views = torch.randint(self.drawn.shape[1], (len(rows),)).numpy()
        return torch.from_numpy(self.drawn[rows, views].astype(np.float32))


class StoppedError(Exception):
    """The user asked for an end before all was encoded."""


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
    """Encode real (n, H, W, 3) and drawn (m, H, W, 3) images by `vision`, or take what is in `folder` where that is
    of the same encoder and as many images and views; what is there of another is written anew.

    Raises StoppedError between two passes after `stopped`, StreamcapError where the disk is full.
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
    manifest = folder / _TOLD
    if not manifest.is_file() or json.loads(manifest.read_text(encoding="utf-8")) != wanted:
        manifest.unlink(missing_ok=True)
        # A stage's own chance must not hang on whether its features were there already.
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
    """(B, V, N, C) of stretches of the images."""
    # Mild crops: of a smaller part a caption is often no longer true.
    boxes = [random_boxes(len(pixels), 0.6) if view else whole(len(pixels)) for view in range(views)]
    step = max(1, PICTURES_A_PASS // views)
    for start in range(0, len(pixels), step):
        some = np.array(pixels[start : start + step])
        planes = []
        for view in range(views):
            mirrored = torch.rand(len(some)) < (0.5 if view else 0.0)
            seen = crop(some, boxes[view][start : start + step], mirrored, image_spec.width)
            planes.append(color_jitter(seen, 0.8) if view else seen)
        grids = _encode(vision, image_spec, torch.stack(planes, 1).flatten(0, 1))
        yield grids.reshape(len(some), views, *grids.shape[1:])


def _drawn_views(vision: nn.Module, image_spec: ImageSpec, pixels: Pixels) -> Iterator[npt.NDArray[np.float16]]:
    """(B, W, N, C) of stretches of the images."""
    for start in range(0, len(pixels), PICTURES_A_PASS // DRAWN_VIEWS):
        some = np.repeat(pixels[start : start + PICTURES_A_PASS // DRAWN_VIEWS], DRAWN_VIEWS, 0)
        mirrored = torch.rand(len(some)) < 0.5
        seen = crop(some, small_shifts(len(some), 0.06), mirrored, image_spec.width)
        grids = _encode(vision, image_spec, color_jitter(seen, 0.35))
        yield grids.reshape(-1, DRAWN_VIEWS, *grids.shape[1:])


def _encode(vision: nn.Module, image_spec: ImageSpec, planes: Tensor) -> npt.NDArray[np.float16]:
    grid: Tensor = vision(normalize(planes, image_spec))
    half: npt.NDArray[np.float16] = grid.half().numpy()
    return half
