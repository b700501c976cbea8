"""Mapping, tag heads and GPT-2 on stored grids: the encoder stays as it is and has seen every image before.

Of images that people captioned several views are stored, of a sample of the others and of the drawn scenes one each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from streamcap.atomic import write_json
from streamcap.captioner.models.vision import fingerprint
from streamcap.image_spec import ImageSpec
from streamcap.training.data.arrays import read_array, write_array
from streamcap.training.mini.augment import (
    color_jitter,
    crop,
    distant_boxes,
    normalize,
    random_boxes,
    small_shifts,
    whole,
)
from streamcap.training.mini.features import StoppedError
from streamcap.training.mini.grounding.trainer import (
    MOST_DISTANT,
    MOST_TURNED,
    GroundedSettings,
    GroundedTrainer,
    ImageSet,
    Rows,
    SyntheticSet,
)

CAPTIONED_VIEWS: Final = 3
RENDERED_VIEWS: Final = 2
OTHERS: Final = 10_000
"""Images without a caption by people of which a view is stored."""
DRAWN: Final = 3_000
_ENCODED_AT_ONCE: Final = 48
_MANIFEST: Final = "grids.json"


@dataclass(frozen=True, slots=True)
class StoredGrids:
    """Grids of N cells of C channels in half precision, memory-mapped; several may be of one image."""

    real: npt.NDArray[np.float16]
    images: Rows
    """Whose they are, ascending."""
    drawn: npt.NDArray[np.float16]
    scenes: Rows

    def views(self, rows: Rows) -> Tensor:
        """One view, by chance, of each of these images: float32 (B, N, C)."""
        first, end = (np.searchsorted(self.images, rows, side) for side in ("left", "right"))
        chosen = first + (torch.rand(len(rows)).numpy() * (end - first)).astype(np.int64)
        return torch.from_numpy(self.real[chosen].astype(np.float32))


def store_grids(
    folder: Path,
    vision: nn.Module,
    spec: ImageSpec,
    images: ImageSet,
    synthetic: SyntheticSet,
    device: torch.device,
    stopped: Callable[[], bool] = lambda: False,
) -> StoredGrids:
    """Encode by `vision`, or take what is in `folder` where that encoder made it.

    Raises StoppedError between two passes after `stopped`, StreamcapError where the disk is full.
    """
    vision.eval().to(device)
    photographs = np.arange(len(images.captioned)) < len(images.captioned) - images.rendered
    others = np.flatnonzero(~images.captioned & photographs)
    chances = images.chances[others] / images.chances[others].sum()
    rng = np.random.default_rng(1)
    kept = rng.choice(others, min(OTHERS, int((chances > 0).sum())), replace=False, p=chances)
    rows = np.sort(np.concatenate((np.repeat(np.flatnonzero(images.captioned), CAPTIONED_VIEWS), kept)))
    renders = np.repeat(np.flatnonzero(~photographs), RENDERED_VIEWS)
    scenes = np.arange(min(DRAWN, len(synthetic.tokens)))
    wanted: dict[str, Any] = {"encoder": fingerprint(vision), "real": len(rows), "drawn": len(scenes)}
    wanted |= {"rendered": len(renders)} if len(renders) else {}
    manifest, real, drawn = folder / _MANIFEST, folder / "grids-real.npy", folder / "grids-drawn.npy"
    if not manifest.is_file() or json.loads(manifest.read_text(encoding="utf-8")) != wanted:
        manifest.unlink(missing_ok=True)
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(1)

            def grids(pixels: Any, chosen: Rows, view: Any) -> Iterator[npt.NDArray[np.float16]]:
                for start in range(0, len(chosen), _ENCODED_AT_ONCE):
                    if stopped():
                        raise StoppedError
                    planes = view(np.asarray(pixels[chosen[start : start + _ENCODED_AT_ONCE]]), spec.width)
                    yield vision(normalize(planes, spec).to(device)).half().cpu().numpy()

            shape = tuple(vision(torch.zeros(1, 3, spec.height, spec.width, device=device)).shape[1:])
            seen = chain(grids(images.pixels, rows, image_views), grids(images.pixels, renders, rendered_views))
            write_array(real, np.float16, (len(rows) + len(renders), *shape), seen)
            write_array(
                drawn, np.float16, (len(scenes), *shape), grids(synthetic.images.pixels, scenes, synthetic_views)
            )
        write_json(manifest, wanted)
    return StoredGrids(read_array(real), np.concatenate((rows, renders)), read_array(drawn), scenes)


def image_views(pixels: npt.NDArray[np.uint8], side: int) -> Tensor:
    """Views (B, 3, side, side): a half whole, a sixth from further away, the others of a part."""
    count = len(pixels)
    kind = torch.rand(count)
    boxes = torch.where(kind[:, None] < 0.5, whole(count), random_boxes(count, 0.55))
    distant = kind > 5 / 6
    boxes = torch.where(distant[:, None], distant_boxes(count, MOST_DISTANT), boxes)
    turn = torch.where(distant, torch.empty(count).uniform_(-MOST_TURNED, MOST_TURNED), torch.zeros(count))
    return color_jitter(crop(pixels, boxes, torch.rand(count) < 0.5, side, turn), 0.6)


def rendered_views(pixels: npt.NDArray[np.uint8], side: int) -> Tensor:
    """Views (B, 3, side, side) of renders: most of them whole, the others of the better part."""
    count = len(pixels)
    boxes = torch.where(torch.rand(count, 1) < 0.6, whole(count), random_boxes(count, 0.7))
    return color_jitter(crop(pixels, boxes, torch.rand(count) < 0.5, side), 0.6)


def synthetic_views(pixels: npt.NDArray[np.uint8], side: int) -> Tensor:
    """Views (B, 3, side, side) of drawn scenes."""
    count = len(pixels)
    return color_jitter(crop(pixels, small_shifts(count, 0.06), torch.rand(count) < 0.5, side), 0.35)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSettings(GroundedSettings):
    """One stage on stored grids."""

    noise: float = 0.02
    """Deviation of the noise on grids, in units of their own."""
    train_encoder: bool = False


class StoredTrainer(GroundedTrainer):
    """One stage on stored grids; `learn_from` comes before the first step."""

    options: StoredSettings
    _grids: StoredGrids | None = None

    @property
    def vision(self) -> nn.Module:
        """The encoder whose grids are to be stored."""
        assert self.ema.vision is not None  # noqa: S101  a stage's model always has one
        return self.ema.vision

    def learn_from(self, grids: StoredGrids) -> None:
        """Take the grids that `vision` made."""
        self._grids = grids
        stored = torch.zeros(len(self._images.chances), dtype=torch.float64)
        stored[np.unique(grids.images)] = 1
        self._chances = self._chances * stored

    def start_from(self, state: Any) -> None:
        """Take the running mean of another stage, whose encoder stays as it is."""
        super().start_from({**state, "model": state["mean"]})

    def _batch(self) -> tuple[Rows, Rows, Tensor]:
        grids, options = self._grids, self.options
        if grids is None:
            raise RuntimeError("learn_from was not called")
        rows = self._draw_rows(options.real_batch)
        chosen = np.sort(torch.randint(len(grids.scenes), (options.synthetic_batch,)).numpy())
        seen = torch.cat((grids.views(rows), torch.from_numpy(grids.drawn[chosen].astype(np.float32))))
        seen = seen + options.noise * seen.std() * torch.randn_like(seen)
        return rows, grids.scenes[chosen], seen.to(self.device)
