"""The vision transformer of CLIP (Radford et al. 2021) and of ViT (Dosovitskiy et al. 2021), in one module.

The arithmetic is that of `transformers`' CLIPVisionModel and ViTModel; queries, keys and values come from one matmul.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.errors import InputError

Output = Literal["projected", "pooled", "states"]
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """Sizes of a vision transformer; pixels, channels, layers."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    inner: int
    activation: str
    epsilon: float
    output: Output
    """`projected`: CLIP's image embedding; `pooled`: the class token after the norm; `states`: all positions."""
    pre_norm: bool
    """Whether there is a norm before the layers (CLIP)."""
    patch_bias: bool
    projection: int = 0
    """Width of the projected embedding."""

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise InputError(f"vision activation {self.activation!r} is not supported")
        if self.heads < 1 or self.width % self.heads:
            raise InputError(f"vision width {self.width} does not divide into {self.heads} heads")

    @property
    def positions(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


def _activate(x: Tensor, name: str) -> Tensor:
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if name == "gelu":
        return F.gelu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh")


class ViTLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads, self.activation = config.heads, config.activation
        self.norm_1 = nn.LayerNorm(config.width, eps=config.epsilon)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_2 = nn.LayerNorm(config.width, eps=config.epsilon)
        self.fc1 = nn.Linear(config.width, config.inner)
        self.fc2 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) → (B, N, C)."""
        batch, count, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, count, width))
        out: Tensor = self.fc2(_activate(self.fc1(self.norm_2(x)), self.activation))
        return x + out


class VisionTransformer(nn.Module):
    """Normalized float pixels (B, 3, image, image) → (B, C) or, for `states`, (B, N, C)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patches: nn.Module = nn.Conv2d(3, config.width, config.patch, config.patch, bias=config.patch_bias)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        self.norm_before = nn.LayerNorm(config.width, eps=config.epsilon) if config.pre_norm else None
        self.layers = nn.ModuleList([ViTLayer(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, pixels: Tensor) -> Tensor:
        cells = self._embed(pixels)
        start = self.class_token.expand(len(cells), 1, -1)
        x = torch.cat((start, cells), dim=1) + self.positions
        if self.norm_before is not None:
            x = self.norm_before(x)
        for layer in self.layers:
            x = layer(x)
        if self.config.output == "states":
            states: Tensor = self.norm(x)
            return states
        pooled: Tensor = self.norm(x[:, 0])
        if self.projection is None:
            return pooled
        projected: Tensor = self.projection(pooled)
        return projected

    def _embed(self, pixels: Tensor) -> Tensor:
        """The patches' embeddings, (B, patches, C): the convolution as one matmul, which takes half the time."""
        batch, channels, height, width = pixels.shape
        side = self.config.patch
        down, across = height // side, width // side
        # Pixels at the right and bottom that do not fill a patch are ignored.
        cropped = pixels[:, :, : down * side, : across * side]
        patches = cropped.reshape(batch, channels, down, side, across, side).permute(0, 2, 4, 1, 3, 5)
        rows = patches.reshape(batch, down * across, channels * side * side)
        if isinstance(self.patches, nn.Conv2d):
            return F.linear(rows, self.patches.weight.flatten(1), self.patches.bias)
        cells: Tensor = self.patches(rows)  # already a linear layer
        return cells
