"""The small vision encoder and the grid mapping of streamcap's own checkpoints, built from a config.

Shapes: B images, (H, W) their size in pixels, N = (H / 32) * (W / 32) grid cells, C channels of a cell, P prefix
positions, E the width of GPT-2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.errors import InputError


class ConvNorm(nn.Module):
    """Convolution and batch norm. folded: the norm's factors are already in the convolution (see `fold`).

    late: with a stride of 2, pad only the right and lower edges, like TensorFlow's SAME; else pad all four. The
    attribute `packed`, if set, is called instead, with the same arguments (see `PackedConvolution`).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, folded: bool, *, late: bool = False
    ) -> None:
        super().__init__()
        self.late = late and stride == 2
        self.packed: nn.Module | None = None
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, 0 if self.late else kernel // 2, bias=folded)
        self.norm = nn.Identity() if folded else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, add: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """(B, C, H, W) → (B, out, H', W'). add: a tensor of the output's shape, added before ReLU."""
        if self.packed is not None:
            out: Tensor = self.packed(x, add, relu=relu)
            return out
        y: Tensor = self.norm(self.conv(F.pad(x, (0, 1, 0, 1)) if self.late else x))
        y = y if add is None else y + add
        return torch.relu(y) if relu else y


class Residual(nn.Module):
    """The basic block of He et al. 2016, figure 5 left: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, folded: bool) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride, folded)
        self.second = ConvNorm(outputs, outputs, 3, 1, folded)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, folded)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x, relu=True), self.shortcut(x), relu=True)
        return y


@dataclass(frozen=True, slots=True)
class ConvStep:
    """A convolution and the numbers of the steps whose outputs it reads; -1: the image. add: as in `ConvNorm`."""

    part: ConvNorm
    source: int
    add: int | None = None
    relu: bool = False


class EncoderStage(nn.Module):
    """One stage of a `StagedEncoder`: expand to a wide map, residual blocks, then a linear 1x1 projection."""

    def __init__(self, inputs: int, width: int, depth: int, stride: int, outputs: int, folded: bool) -> None:
        super().__init__()
        self.project_in = ConvNorm(inputs, width, 3, stride, folded, late=True)
        self.blocks = nn.Sequential(*(Residual(width, width, 1, folded) for _ in range(depth)))
        self.project_out = ConvNorm(width, outputs, 1, 1, folded)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project_out(self.blocks(self.project_in(x, relu=True)))
        return y


class StagedEncoder(nn.Module):
    """Stages with a narrow, linear output; the last output is the grid.

    The outputs match a teacher's linear bottlenecks (MobileNetV2, Sandler et al. 2018), so that each stage can be
    distilled separately: a shallow function generalizes from few images, the deep network does not. Strided
    convolutions pad like the teacher's, so that both grids cover the same pixels.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        outputs: Sequence[int],
        folded: bool,
    ) -> None:
        super().__init__()
        self.packed: nn.Module | None = None
        """Called instead of the parts, if set, for the last stage's output (see `PackedEncoder`)."""
        self.stem = ConvNorm(3, stem, 3, 2, folded, late=True)
        inputs = [stem, *outputs[:-1]]
        self.stages = nn.ModuleList(
            EncoderStage(*stage, folded) for stage in zip(inputs, widths, depths, strides, outputs, strict=True)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: normalized float, (B, 3, H, W). Returns the grid row by row, (B, N, C)."""
        if self.packed is not None:
            grid = self.packed(pixels)
        else:
            grid = self.stem_output(pixels)
            for stage in self.stages:
                grid = stage(grid)
        rows: Tensor = grid.flatten(2).transpose(1, 2)
        return rows

    def steps(self) -> list[ConvStep]:
        """The convolutions of `forward`, in the order in which they run."""
        steps = [ConvStep(self.stem, -1, relu=True)]
        stages: list[Any] = list(self.stages)
        for stage in stages:
            steps.append(ConvStep(stage.project_in, len(steps) - 1, relu=True))
            for block in stage.blocks:
                source = add = len(steps) - 1
                if isinstance(block.shortcut, ConvNorm):
                    steps.append(ConvStep(block.shortcut, source))
                    add = len(steps) - 1
                steps.append(ConvStep(block.first, source, relu=True))
                steps.append(ConvStep(block.second, len(steps) - 1, add, relu=True))
            steps.append(ConvStep(stage.project_out, len(steps) - 1))
        return steps

    def stem_output(self, pixels: Tensor) -> Tensor:
        """The input of the first stage: (B, S, H / 2, W / 2)."""
        y: Tensor = self.stem(pixels.contiguous(memory_format=torch.channels_last), relu=True)
        return y


class GridMapping(nn.Module):
    """Learned prefix positions attend to the grid, its mean and its maximum in a small pre-norm transformer."""

    def __init__(
        self, cells: int, channels: int, width: int, prefix: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.project_in = nn.Linear(channels, width)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(cells + 2, width), std=0.02))
        self.prefix = nn.Parameter(nn.init.normal_(torch.empty(prefix, width), std=0.02))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.project_out = nn.Linear(width, width)

    def forward(self, grid: Tensor) -> Tensor:
        """`grid`: (B, N, C). Returns the prefix, (B, P, E)."""
        cells = torch.cat((grid.mean(1, keepdim=True), grid.amax(1, keepdim=True), grid), 1)
        inputs = self.project_in(cells) + self.positions
        queries = self.prefix.expand(len(grid), -1, -1)
        y: Tensor = self.project_out(self.layers(torch.cat((queries, inputs), 1))[:, : len(self.prefix)])
        return y


LOGIT_SCALE = 4.0
"""Factor of the tag heads' logits, which are large numbers: they learn by Muon, whose steps are all of one size."""


class TagHeads(nn.Module):
    """What the grid shows, as logits: K tags in the order of a config's `tags`."""

    def __init__(self, channels: int, hidden: int, tags: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(channels, hidden)
        self.project_out = nn.Linear(2 * hidden, tags)

    def forward(self, grid: Tensor) -> Tensor:
        """`grid`: (B, N, C). Returns (B, K)."""
        return self.logits(self.summarize(grid))

    def logits(self, summary: Tensor) -> Tensor:
        """Of what `summarize` gives: (B, 2 H) to (B, K)."""
        scaled: Tensor = self.project_out(summary) * LOGIT_SCALE
        return scaled

    def summarize(self, grid: Tensor) -> Tensor:
        """Mean and maximum of what the cells show: (B, N, C) to (B, 2 H)."""
        cells = torch.relu(self.project_in(grid))
        return torch.cat((cells.mean(1), cells.amax(1)), 1)


class TaggedMapping(GridMapping):
    """A grid mapping that adds the probabilities of the grid's tags to the prefix.

    So GPT-2 can learn from text without images which words belong to a tag: `text_prefix` is made of tags alone.
    """

    def __init__(self, tags: int, hidden: int, **grid: Any) -> None:
        super().__init__(**grid)
        width, prefix = int(grid["width"]), int(grid["prefix"])
        self.tag_heads = TagHeads(int(grid["channels"]), hidden, tags)
        self.tags = nn.Linear(tags, prefix * width, bias=False)
        self.blind = nn.Parameter(torch.zeros(prefix, width))
        nn.init.zeros_(self.tags.weight)

    def forward(self, grid: Tensor) -> Tensor:
        """`grid`: (B, N, C). Returns the prefix, (B, P, E)."""
        return self.mapped(grid, self.tag_heads(grid))

    def mapped(self, grid: Tensor, logits: Tensor) -> Tensor:
        """The prefix (B, P, E) of a grid (B, N, C) whose tags' logits (B, K) are known."""
        return super().forward(grid) + self._tag_prefix(logits.detach().sigmoid())

    def text_prefix(self, tags: Tensor) -> Tensor:
        """The prefix (B, P, E) of a text's tags (B, K), from 0 to 1."""
        return self.blind + self._tag_prefix(tags)

    def _tag_prefix(self, tags: Tensor) -> Tensor:
        prefix: Tensor = self.tags(tags).unflatten(1, self.prefix.shape)
        return prefix


def build_vision(config: Mapping[str, Any]) -> nn.Module:
    """The encoder described by a config's `vision`. Raises InputError for another architecture."""
    folded = bool(config.get("folded", False))
    match config.get("architecture"):
        case "staged":
            stages = [tuple(config[name]) for name in ("widths", "depths", "strides", "outputs")]
            if len({len(values) for values in stages}) != 1 or not stages[0]:
                raise InputError(
                    f"a staged encoder needs equally many widths, depths, strides and outputs, not {stages}"
                )
            widths, depths, strides, outputs = stages
            return StagedEncoder(int(config["stem"]), widths, depths, strides, outputs, folded)
        case other:
            raise InputError(f"vision architecture {other!r} is unknown; known: 'staged'")


def build_mapping(config: Mapping[str, Any]) -> nn.Module:
    """The mapping described by a config's `mapping`. Raises InputError for another architecture."""
    architecture = config.get("architecture")
    if architecture not in ("grid", "tagged_grid"):
        raise InputError(f"mapping architecture {architecture!r} is unknown; known: 'grid', 'tagged_grid'")
    sizes: dict[str, Any] = {
        name: int(config[name]) for name in ("cells", "channels", "width", "prefix", "layers", "heads")
    }
    sizes["dropout"] = float(config.get("dropout", 0.0))
    if architecture == "grid":
        return GridMapping(**sizes)
    return TaggedMapping(int(config["tags"]), int(config["hidden"]), **sizes)


@torch.no_grad()
def fold(vision: nn.Module) -> dict[str, Tensor]:
    """The state dict of a trained `vision` with every batch norm folded into its convolution, for `folded: true`.

    With running mean m, variance v, weight g and bias b: conv * g / sqrt(v + eps), and bias b - m * g / sqrt(v + eps).
    """
    state: dict[str, Tensor] = {}
    for name, module in vision.named_modules():
        if not isinstance(module, ConvNorm):
            continue
        norm = module.norm
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
            raise InputError("this vision encoder is already folded")
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        state[f"{name}.conv.weight"] = module.conv.weight * factor[:, None, None, None]
        state[f"{name}.conv.bias"] = norm.bias - norm.running_mean * factor
    return state
