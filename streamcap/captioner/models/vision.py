"""`Vision`: a vision encoder with its image size and normalization."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Vision(nn.Module):
    """An encoder, and the size and normalization of its pixels."""

    def __init__(self, encoder: nn.Module, image_spec: ImageSpec, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_spec = image_spec
        self.width = width
        """Width C of the embeddings."""
        mean, std = torch.tensor(image_spec.mean), torch.tensor(image_spec.std)
        # (x / 255 - mean) / std, as one multiplication and one addition.
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def normalize(self, pixels: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 (B, H, W, 3) of the image's size → float (B, 3, H, W) on the encoder's device."""
        raw = torch.from_numpy(np.ascontiguousarray(pixels)) if isinstance(pixels, np.ndarray) else pixels
        if tuple(raw.shape[1:]) != (self.image_spec.height, self.image_spec.width, 3):
            raise InputError(
                f"pixels have shape {tuple(raw.shape)}, the encoder takes (B, {self.image_spec.height}, "
                f"{self.image_spec.width}, 3)"
            )
        moved = raw.to(self.scale.device, non_blocking=True).permute(0, 3, 1, 2)
        return moved.to(self.scale.dtype) * self.scale + self.shift

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) → (B, C) or (B, N, C)."""
        out: Tensor = self(self.normalize(pixels))
        return out

    def forward(self, normalized: Tensor) -> Tensor:
        """(B, 3, H, W) normalized → (B, C) or (B, N, C)."""
        out: Tensor = self.encoder(normalized)
        return out


def fingerprint(vision: nn.Module) -> str:
    """SHA-256, in hexadecimal, over names, shapes and values of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vision.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
