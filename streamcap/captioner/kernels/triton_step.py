"""`TritonStep`: a pass of GPT-2 over at most 16 positions, from token to token, on the kernels of `triton_kernels`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from streamcap.captioner.kernels import triton_kernels as kernels
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.kv_cache import KVCache

MAX_QUERIES = 16
"""Positions of all rows together: one tile of the tensor cores. Above it, torch's matmuls use the GPU better."""
CACHE_BLOCK = 64
"""Cache positions that attention reads at once."""


def launches(layers: int) -> int:
    """Kernels of one pass."""
    return 5 * layers + 3


class TritonStep:
    """See `models.backend.FusedStep`; made by `fused_step.install`. It reads the weights of `gpt2` in place."""

    max_queries = MAX_QUERIES

    def __init__(self, gpt2: GPT2) -> None:
        """gpt2: one that `fused_step.unsupported` has no objection to."""
        # Not the model itself, which would be a reference cycle.
        self._config = gpt2.config
        self._wte: Any = gpt2.wte
        self._wpe, self._norm, self._head = gpt2.wpe, gpt2.norm, gpt2.head
        self._blocks: list[Any] = list(gpt2.blocks)
        self._position_weight = gpt2.token_position_weight

    def __call__(self, tokens: Tensor, lengths: Tensor, cache: KVCache) -> tuple[Tensor, Tensor, Tensor]:
        # Triton launches on the current device, which may be another one.
        with torch.cuda.device(tokens.device) if tokens.device.type == "cuda" else nullcontext():
            return self._run(tokens.contiguous(), lengths, cache)

    def _run(self, tokens: Tensor, lengths: Tensor, cache: KVCache) -> tuple[Tensor, Tensor, Tensor]:
        config = self._config
        width, inner, vocabulary = config.n_embd, config.n_inner, config.vocab_size
        rows, steps = tokens.shape
        queries = rows * steps
        x = tokens.new_empty(queries, width, dtype=torch.float32)
        q, mixed = (tokens.new_empty(queries, width, dtype=cache.keys.dtype) for _ in range(2))
        hidden = tokens.new_empty(queries, inner, dtype=cache.keys.dtype)
        capacity, row_stride = cache.positions, cache.keys.stride(1)
        norm = {"WIDTH": width, "EPSILON": config.layer_norm_epsilon}
        kernels.embed[(queries,)](
            tokens, lengths, self._wte.weight, self._wpe.weight, x, self._position_weight, steps,
            VOCABULARY=vocabulary, POSITIONS=config.n_positions, WIDTH=width, BLOCK=_power_of_two(width),
        )  # fmt: skip
        for layer, block in enumerate(self._blocks):
            keys, values = cache.keys[layer], cache.values[layer]
            qkv, out, fc1, fc2 = block.attention.qkv, block.attention.out, block.fc1, block.fc2
            grid, tile = _tile(queries, width, 3 * width)
            kernels.norm_qkv[grid](
                x, block.norm_1.weight, block.norm_1.bias, qkv.weight, qkv.bias, q, keys, values, lengths,
                queries, steps, capacity, row_stride, HEAD=config.head_width, **norm, **tile,
            )  # fmt: skip
            kernels.attend[queries, config.n_head](
                q, keys, values, lengths, mixed, steps, capacity, row_stride, config.head_width**-0.5,
                WIDTH=width, HEAD=config.head_width, BLOCK_P=CACHE_BLOCK,
            )  # fmt: skip
            grid, tile = _tile(queries, width, width)
            kernels.linear_residual[grid](mixed, out.weight, out.bias, x, queries, INPUTS=width, WIDTH=width, **tile)
            grid, tile = _tile(queries, width, inner)
            kernels.norm_gelu[grid](
                x, block.norm_2.weight, block.norm_2.bias, fc1.weight, fc1.bias, hidden, queries,
                INNER=inner, **norm, **tile,
            )  # fmt: skip
            grid, tile = _tile(queries, inner, width)
            kernels.linear_residual[grid](hidden, fc2.weight, fc2.bias, x, queries, INPUTS=inner, WIDTH=width, **tile)
        grid, tile = _tile(queries, width, vocabulary)
        blocks = grid[0]
        logits = x.new_empty(queries, vocabulary)
        best, weights = (x.new_empty(queries, blocks) for _ in range(2))
        best_token = x.new_empty(queries, blocks, dtype=torch.int32)
        kernels.norm_logits[grid](
            x, self._norm.weight, self._norm.bias, self._head.weight, logits, best, best_token, weights, queries,
            VOCABULARY=vocabulary, **norm, **tile,
        )  # fmt: skip
        chosen, scores = torch.empty_like(tokens), torch.empty_like(tokens, dtype=torch.float64)
        kernels.choose[(queries,)](
            best, best_token, weights, chosen, scores, blocks, VOCABULARY=vocabulary, BLOCK=_power_of_two(blocks)
        )
        return chosen, scores, logits.view(rows, steps, vocabulary)


def _tile(queries: int, inputs: int, outputs: int) -> tuple[tuple[int], dict[str, int]]:
    """The grid and the tile sizes of a matmul. Small tiles, so that every multiprocessor reads a part of the weight."""
    if queries == 1:
        size, block = (8 if outputs <= inputs else 16), min(1024, _power_of_two(inputs))
        return (-(-outputs // size),), {"TILE": 1, "BLOCK_N": size, "BLOCK_K": block}
    size = 16 if outputs <= 2 * inputs else 32
    return (-(-outputs // size),), {"TILE": 16, "BLOCK_N": size, "BLOCK_K": 128}


def _power_of_two(count: int) -> int:
    """The next one, as Triton's blocks need."""
    return 1 << (count - 1).bit_length()
