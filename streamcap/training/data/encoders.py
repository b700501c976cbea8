"""Vision encoders that a feature cache can be made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.captioner import registry
from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.towers import clip_directory
from streamcap.captioner.models.vision import Vision, fingerprint
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

FeatureKind = Literal["auto", "projected", "pooled", "grid"]
"""What is kept of an image. `projected`: CLIP's image embedding (ClipCap, NYU). `pooled`: CLIP's pooler output
(VideoCaptionerWithClip), or the mean and the maximum over a grid, side by side. `grid`: every cell of a grid."""


@dataclass(frozen=True, slots=True)
class EncoderId:
    """What tells one encoder from another."""

    name: str
    feature_kind: str
    fingerprint: str
    """SHA-256 over the weights, so that two encoders of one name are told apart."""


class FeatureEncoder:
    """Images to features of a fixed shape."""

    def __init__(self, name: str, vision: Vision, feature_kind: str, device: torch.device) -> None:
        self._vision = vision.to(device).eval()
        self._device = device
        self._feature_kind = feature_kind
        self.id = EncoderId(name, feature_kind, fingerprint(vision))

    @property
    def image_spec(self) -> ImageSpec:
        """The pixels it wants."""
        return self._vision.image_spec

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (B, H, W, 3) → float32 (B, C), or (B, N, C) where the grid is taken."""
        out: Tensor = self._vision(self._vision.normalize(pixels)).float()
        if out.dim() == 3 and self._feature_kind == "pooled":
            out = torch.cat((out.mean(1), out.amax(1)), 1)
        features: npt.NDArray[np.float32] = out.cpu().numpy()
        return features


def open_encoder(name: str, feature_kind: FeatureKind = "auto", device: torch.device | None = None) -> FeatureEncoder:
    """`mini`, a directory of ours, or a CLIP (a directory or its name on the hub).

    `auto` takes the grid of ours and the projected embedding of CLIP. Raises InputError.
    """
    device = device or torch.device("cpu")
    directory = encoder_directory(name)
    if (directory / "config.json").is_file() and _is_ours(directory):
        if feature_kind == "projected":
            raise InputError(f"{name}: has a grid and no projected embedding; take `grid` or `pooled`")
        vision = open_checkpoint(directory).vision
        if vision is None:
            raise InputError(f"{name}: holds no vision encoder")
        return FeatureEncoder(name, vision, "grid" if feature_kind == "auto" else feature_kind, device)
    if feature_kind == "grid":
        raise InputError(f"{name}: CLIP has no grid here; take `projected` or `pooled`")
    output: Literal["projected", "pooled"] = "pooled" if feature_kind == "pooled" else "projected"
    return FeatureEncoder(name, clip_directory(registry.find_vision(name), output), output, device)


def encoder_directory(name: str) -> Path:
    """Where the encoder `name` lies, if it is `mini` or on this machine."""
    return registry.mini_directory() if name == "mini" else Path(name).expanduser()


def _is_ours(directory: Path) -> bool:
    return '"streamcap"' in (directory / "config.json").read_text(encoding="utf-8", errors="replace")
