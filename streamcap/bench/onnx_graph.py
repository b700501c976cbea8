"""GPT-2 and CLIP's vision tower as graphs for other runtimes: transformers' weights, the KV cache as input and output.

Needs only torch. Weights are stored as (inputs, outputs), the layout of onnxruntime's quantization and GEMM.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

Module = TypeVar("Module", bound=nn.Module)


class MatMul(nn.Module):
    """y = x W + b; W is (inputs, outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Int8MatMul(nn.Module):
    """y = x (Q s) + b; Q is (inputs, outputs) in int8, s one scale for each output: OpenVINO's compressed weights
    (https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/weight-compression.html)."""

    qweight: Tensor
    scale: Tensor

    def __init__(self, matmul: MatMul) -> None:
        super().__init__()
        weight = matmul.weight.detach()
        scale = weight.abs().amax(dim=0, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("qweight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = matmul.bias

    def forward(self, x: Tensor) -> Tensor:
        y = x @ (self.qweight.to(torch.float32) * self.scale)
        return y if self.bias is None else y + self.bias


def with_matmuls(model: Module) -> Module:
    """A copy of transformers' `model` with a `MatMul` for every linear layer."""
    from transformers.pytorch_utils import Conv1D

    def to_matmul(module: nn.Module) -> nn.Module | None:
        if isinstance(module, Conv1D):
            return MatMul(module.weight.detach(), module.bias)
        if isinstance(module, nn.Linear):
            return MatMul(module.weight.detach().t(), module.bias)
        return None

    return _replace(copy.deepcopy(model).eval(), to_matmul)


def with_int8_weights(graph: Module) -> Module:
    """A copy of `graph` with int8 weights."""
    return _replace(copy.deepcopy(graph), lambda module: Int8MatMul(module) if isinstance(module, MatMul) else None)


def _replace(module: Module, replacement: Callable[[nn.Module], nn.Module | None]) -> Module:
    for name, child in module.named_children():
        new = replacement(child)
        if new is None:
            _replace(child, replacement)
        else:
            setattr(module, name, new)
    return module


class Step(nn.Module):
    """One pass of GPT-2 with a KV cache, from embeddings to the last position's logits.

    forward(embeddings (B, P, width), positions (P,) int64, mask (P, past + P), keys, values) returns logits
    (B, vocabulary) and the extended keys and values. `keys` and `values` are lists with one tensor
    (B, heads, past, width / heads) per layer. The mask is additive: 0 to attend, -inf otherwise.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        model = with_matmuls(model)
        self.positions = model.transformer.wpe
        self.blocks = model.transformer.h
        self.norm = model.transformer.ln_f
        self.head = model.lm_head
        self.heads: int = model.config.n_head
        self.width: int = model.config.n_embd

    def forward(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        x = embeddings + self.positions(positions)
        grown: tuple[list[Tensor], list[Tensor]] = ([], [])
        for block, past_keys, past_values in zip(self.blocks, keys, values, strict=True):
            query, key, value = (self._by_head(each) for each in block.attn.c_attn(block.ln_1(x)).chunk(3, dim=-1))
            key, value = torch.cat((past_keys, key), dim=2), torch.cat((past_values, value), dim=2)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = x + block.attn.c_proj(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x)), approximate="tanh"))
            grown[0].append(key)
            grown[1].append(value)
        logits: Tensor = self.head(self.norm(x[:, -1]))
        return logits, *grown

    def _by_head(self, x: Tensor) -> Tensor:
        rows, positions, width = x.shape
        return x.view(rows, positions, self.heads, width // self.heads).transpose(1, 2)

    def example(self) -> tuple[Any, ...]:
        """Inputs without dimensions of 0 or 1, which torch.export would treat as static."""
        rows, new, past = 2, 3, 4
        # Distinct tensors: torch.export merges inputs that are the same tensor.
        keys, values = (
            [torch.zeros(rows, self.heads, past, self.width // self.heads) for _ in self.blocks] for _ in range(2)
        )
        mask = torch.zeros(new, past + new)
        return torch.zeros(rows, new, self.width), torch.arange(past, past + new), mask, keys, values

    def dynamic(self) -> tuple[Any, ...]:
        """The dynamic dimensions of the inputs."""
        cache = [{0: Dim.AUTO, 2: Dim.AUTO} for _ in self.blocks]
        return {0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO}, {0: Dim.AUTO, 1: Dim.AUTO}, cache, cache


class Tower(nn.Module):
    """CLIP's vision tower: normalized pixels (B, 3, side, side) to projected embeddings (B, C)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.side: int = model.config.image_size
        self.model = with_matmuls(model)

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.model(pixel_values=pixels).image_embeds
        return embeddings

    def example(self) -> tuple[Any, ...]:
        return (torch.zeros(2, 3, self.side, self.side),)

    def dynamic(self) -> tuple[Any, ...]:
        return ({0: Dim.AUTO},)


def export(graph: Step | Tower) -> ExportedProgram:
    """`graph` exported by torch.export, the input of both runtimes' converters."""
    with torch.no_grad():
        return torch.export.export(graph, graph.example(), dynamic_shapes=graph.dynamic(), strict=False)
