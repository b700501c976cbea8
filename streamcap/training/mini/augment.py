"""Augmentation of training images: crop, flip, rotation, color jitter, blur. All functions take batches, in torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from streamcap.image_spec import ImageSpec


def crop(pixels: npt.NDArray[np.uint8], boxes: Tensor, flip: Tensor, size: int, turn: Tensor | None = None) -> Tensor:
    """uint8 (B, H, W, 3), boxes (B, 4) in units of the sides, flip (B,) bool → float (B, 3, size, size) from 0 to 1.

    turn: (B,) radians by which each box is rotated about its center. Outside the image, its reflection continues.
    """
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    left, top, right, bottom = boxes.unbind(1)
    theta = torch.zeros(len(boxes), 2, 3)
    theta[:, 0, 0] = torch.where(flip, left - right, right - left)
    theta[:, 0, 2] = right + left - 1
    theta[:, 1, 1] = bottom - top
    theta[:, 1, 2] = bottom + top - 1
    if turn is not None:
        theta[:, 0, 1] = -theta[:, 1, 1] * turn.sin()
        theta[:, 1, 0] = theta[:, 0, 0] * turn.sin()
        theta[:, :2, :2] *= torch.stack((turn.cos(), torch.ones_like(turn)), 1)[:, [[0, 1], [1, 0]]]
    grid = F.affine_grid(theta, [len(boxes), 3, size, size], align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)


def color_jitter(planes: Tensor, strength: float) -> Tensor:
    """Random brightness, contrast and saturation, a blur on one image of five, and noise; `strength` 0: noise only.

    planes: (B, 3, H, W) from 0 to 1.
    """
    count = len(planes)

    def factor(spread: float) -> Tensor:
        return torch.empty(count, 1, 1, 1).uniform_(1 - spread * strength, 1 + spread * strength)

    planes = planes * factor(0.25)
    gray = planes.mean((1, 2, 3), keepdim=True)
    planes = (planes - gray) * factor(0.25) + gray
    gray = planes.mean(1, keepdim=True)
    planes = (planes - gray) * factor(0.35) + gray
    blurred = torch.rand(count) < 0.2
    if blurred.any():
        planes[blurred] = F.avg_pool2d(F.pad(planes[blurred], (1, 1, 1, 1), mode="reflect"), 3, 1)
    # The whole batch shares one noise image: noise for each image would take a tenth of a training step.
    return planes.add_(torch.randn_like(planes[:1]), alpha=0.01).clamp_(0, 1)


def normalize(planes: Tensor, spec: ImageSpec) -> Tensor:
    """`planes` (B, 3, H, W), 0 to 1, normalized by `spec`'s mean and deviation, channels last in memory."""
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    return ((planes - mean) / std).contiguous(memory_format=torch.channels_last)


def small_shifts(count: int, most: float) -> Tensor:
    """Boxes (count, 4) that leave out up to the share `most` of each side, as of a camera that has moved a little."""
    cut = torch.rand(count, 1) * most
    corner = torch.rand(count, 2) * cut
    return torch.cat((corner, corner + 1 - cut), 1)


def random_boxes(count: int, min_crop_area: float) -> Tensor:
    """Boxes (count, 4): left, top, right, bottom, in units of the image's sides. The area is `min_crop_area` to 1, and
    the aspect ratio varies by up to a third."""
    area = torch.empty(count).uniform_(min_crop_area, 1)
    aspect = torch.empty(count).uniform_(-0.28, 0.28).exp()
    sides = torch.stack(((area * aspect).sqrt(), (area / aspect).sqrt()), 1).clamp(max=1)
    corner = torch.rand(count, 2) * (1 - sides)
    return torch.cat((corner, corner + sides), 1)


def distant_boxes(count: int, most: float) -> Tensor:
    """Boxes (count, 4) of 1 to `most` times the image's sides that contain the whole image. Objects become smaller, as
    in the image of a fixed camera."""
    side = torch.empty(count, 1).uniform_(1, most)
    corner = -torch.rand(count, 2) * (side - 1)
    return torch.cat((corner, corner + side), 1)


def whole(count: int) -> Tensor:
    """Boxes (count, 4) of the whole image."""
    return torch.tensor([0.0, 0, 1, 1]).expand(count, 4)
