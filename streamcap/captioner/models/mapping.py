"""The mappings of the published captioners: an image's embedding to a prefix of GPT-2 embeddings.

Module and parameter names are those of the checkpoints, so that the keys match. B captions, C the embedding's width, T
frames of a clip, P prefix positions, E GPT-2's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPMapping(nn.Module):
    """ClipCap's two-layer MLP with tanh: (B, C) → (B, P, E); its hidden layer has half of P * E units."""

    def __init__(self, width: int, hidden: int, outputs: int, embed: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        self.embed = embed

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out.view(len(x), -1, self.embed)


class LinearMapping(nn.Linear):
    """ClipCap's `MLP` for a `prefix_length` over 10, a single layer: (B, C) → (B, P, E)."""

    def __init__(self, width: int, outputs: int, embed: int) -> None:
        super().__init__(width, outputs)
        self.embed = embed

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(len(x), -1, self.embed)


class FrameMLPMapping(nn.Module):
    """NYU's MLP, applied to each frame: (B, T, C) → (B, T, E); an image (B, C) counts as a clip of one frame."""

    def __init__(self, width: int, hidden: int, embed: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, embed))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x if x.dim() == 3 else x.unsqueeze(1))
        return out


class MappingAttention(nn.Module):
    """ClipCap's MultiHeadAttention: a bias only in the last layer, keys and values from one matmul."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Queries from x (B, N, E), keys and values from y (B, M, E)."""
        batch, count, width = x.shape
        query = self.to_queries(x).view(batch, count, self.heads, -1).transpose(1, 2)
        both = self.to_keys_values(y).view(batch, y.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, both[0], both[1])
        mixed: Tensor = self.project(out.transpose(1, 2).reshape(batch, count, width))
        return mixed


class MappingMLP(nn.Module):
    """The MLP of a mapping layer, with ReLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.relu(self.fc1(x)))
        return out


class MappingLayer(nn.Module):
    """One pre-norm layer of ClipCap's Transformer."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = MappingAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MappingMLP(width, hidden)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """y: the states to attend to, without a norm; None: self-attention."""
        normed = self.norm1(x)
        x = x + self.attn(normed, normed if y is None else y)
        mixed: Tensor = self.mlp(self.norm2(x))
        return x + mixed


class MappingLayers(nn.Module):
    """All layers, under their name in the checkpoints."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([MappingLayer(width, heads, hidden) for _ in range(layers)])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, y)
        return x


class TransformerMapping(nn.Module):
    """ClipCap's TransformerMapper, and NYU's two.

    Learned constants follow the image's positions; their output is the prefix. ClipCap maps one embedding (B, C) to
    several positions by one matmul; NYU maps each frame of (B, T, C) to one position (`outputs` equals `embed`). With
    `cross` (NYU's CrossTransformerMapper), only the constants run through the layers, and attend to the frames.
    """

    def __init__(
        self, width: int, outputs: int, embed: int, prefix: int, heads: int, hidden: int, layers: int, *, cross: bool
    ) -> None:
        super().__init__()
        self.embed, self.cross = embed, cross
        self.prefix_const = nn.Parameter(torch.empty(prefix, embed))
        self.linear = nn.Linear(width, outputs)
        self.transformer = MappingLayers(embed, heads, hidden, layers)

    def forward(self, x: Tensor) -> Tensor:
        states = self.linear(x).view(len(x), -1, self.embed)
        constants = self.prefix_const.expand(len(x), -1, -1)
        if self.cross:
            crossed: Tensor = self.transformer(constants, states)
            return crossed
        out: Tensor = self.transformer(torch.cat((states, constants), dim=1))
        return out[:, -len(self.prefix_const) :]


class PooledLayer(nn.Module):
    """A post-norm `nn.TransformerEncoderLayer` on a sequence of one position.

    Attention over a single position returns its value for any query, key and number of heads, so only the value's part
    of `in_proj` is kept.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.out(self.value(x)))
        out: Tensor = self.norm2(x + self.linear2(F.relu(self.linear1(x))))
        return out


class PooledMapping(nn.Module):
    """VideoCaptionerWithClip's Mapping: an encoder over the pooled vector, then a matmul: (B, C) → (B, P, E), C = E."""

    def __init__(self, width: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PooledLayer(width, hidden) for _ in range(layers)])
        self.mapper = nn.Linear(width, outputs)
        self.embed = width

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.mapper(x)
        return out.view(len(x), -1, self.embed)
