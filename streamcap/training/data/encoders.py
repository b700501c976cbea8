"""The vision encoders of feature caches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.atomic import read_json
from streamcap.captioner import registry
from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.families import native
from streamcap.captioner.checkpoints.settings import EncoderRef
from streamcap.captioner.checkpoints.towers import clip_directory
from streamcap.captioner.models.vision import Vision, fingerprint
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.local_path import find_local

FeatureKind = Literal["auto", "projected", "pooled", "grid"]
"""The features stored per image. `projected`: CLIP's image embedding (ClipCap, NYU). `pooled`: CLIP's pooler output
(VideoCaptionerWithClip), or mean and maximum over a grid, concatenated. `grid`: every cell of a grid."""


class FeatureEncoder:
    """Encodes images into features of a fixed shape."""

    def __init__(self, name: str, vision: Vision, feature_kind: str, device: torch.device) -> None:
        self._vision = vision.to(device).eval()
        self._device = device
        self._feature_kind = feature_kind
        self.id = EncoderRef(name, feature_kind, fingerprint(vision))

    @property
    def image_spec(self) -> ImageSpec:
        """Size and layout of the input images."""
        return self._vision.image_spec

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (B, H, W, 3) → float32 (B, C), or (B, N, C) for the feature kind `grid`."""
        out: Tensor = self._vision(self._vision.normalize(pixels)).float()
        if out.dim() == 3 and self._feature_kind == "pooled":
            out = torch.cat((out.mean(1), out.amax(1)), 1)
        features: npt.NDArray[np.float32] = out.cpu().numpy()
        return features


def open_encoder(name: str, feature_kind: FeatureKind = "auto", device: torch.device | None = None) -> FeatureEncoder:
    """Open `mini`, the directory of a streamcap checkpoint, or a CLIP (a directory or hub name).

    `auto` means `grid` for a streamcap checkpoint and `projected` for CLIP. Raises InputError.
    """
    device = device or torch.device("cpu")
    directory = encoder_directory(name)
    if (directory / "config.json").is_file() and native.matches(read_json(directory / "config.json")):
        if feature_kind == "projected":
            raise InputError(f"{name}: has no projected embedding; use `grid` or `pooled`")
        vision = open_checkpoint(directory).vision
        if vision is None:
            raise InputError(f"{name}: holds no vision encoder")
        return FeatureEncoder(name, vision, "grid" if feature_kind == "auto" else feature_kind, device)
    if feature_kind == "grid":
        raise InputError(f"{name}: the feature kind `grid` is not available for CLIP; use `projected` or `pooled`")
    output: Literal["projected", "pooled"] = "pooled" if feature_kind == "pooled" else "projected"
    return FeatureEncoder(name, clip_directory(registry.find_vision(name), output), output, device)


def encoder_directory(name: str) -> Path:
    """The directory of encoder `name`: the bundled one for `mini`, else `name` as a path, which may not exist."""
    return registry.mini_directory() if name == "mini" else find_local(name) or Path(name)
