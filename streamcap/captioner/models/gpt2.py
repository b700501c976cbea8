"""GPT-2 for captions: a prefill of prefix embeddings, decode steps, and a KV cache that is written in place.

The arithmetic is that of `transformers` (`GPT2LMHeadModel`, pre-norm blocks, `gelu_new`), with the same greedy tokens
in fp32. Every linear layer is an `nn.Linear`, so that it can be quantized later.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.models.attention_context import AttentionContext
from streamcap.captioner.models.backend import DecoderBackend, EagerBackend, FusedStep, TorchScriptBackend
from streamcap.captioner.models.kv_cache import CacheSlice, KVCache
from streamcap.errors import InputError

_ACTIVATIONS = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu"}


@dataclass(frozen=True, slots=True)
class GPT2Config:
    """The sizes of a GPT-2, named as in `transformers`' GPT2Config."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    bos_token_id: int
    eos_token_id: int
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    cross_width: int = 0
    """Width of the encoder states for cross-attention; 0: no cross-attention."""

    def __post_init__(self) -> None:
        if self.n_head < 1 or self.n_embd % self.n_head:
            raise InputError(f"GPT-2: width {self.n_embd} does not divide into {self.n_head} heads")
        if self.activation_function not in _ACTIVATIONS:
            raise InputError(f"GPT-2: activation {self.activation_function!r} is not supported")

    @property
    def head_width(self) -> int:
        return self.n_embd // self.n_head

    def to_json(self) -> dict[str, Any]:
        """The content of `gpt2` in a config.json, readable by `transformers`."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "cross_width"}


def _activate(x: Tensor, name: str) -> Tensor:
    if name == "gelu":
        return F.gelu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh")


class Attention(nn.Module):
    """Causal self-attention with one matmul for queries, keys and values."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads, self.head_width = config.n_head, config.head_width
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, context: AttentionContext, layer: int) -> Tensor:
        """x: (R, S, width). Writes this layer's keys and values, then attends to the positions in `context`."""
        rows, steps, width = x.shape
        qkv = self.qkv(x).view(rows, steps, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        keys, values, positions = context.keys[layer], context.values[layer], context.positions
        if positions is None:
            keys[:, :, context.start : context.stop] = key
            values[:, :, context.start : context.stop] = value
        else:
            column = positions.view(rows, 1, steps, 1).expand(rows, self.heads, steps, self.head_width)
            keys.scatter_(2, column, key)
            values.scatter_(2, column, value)
        out = F.scaled_dot_product_attention(
            query,
            keys[:, :, : context.stop],
            values[:, :, : context.stop],
            attn_mask=context.mask,
            is_causal=context.causal,
        )
        mixed: Tensor = self.out(out.transpose(1, 2).reshape(rows, steps, width))
        return mixed


class CrossAttention(nn.Module):
    """Attention to encoder states, whose keys and values are computed once for each caption."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads, self.head_width = config.n_head, config.head_width
        self.query = nn.Linear(config.n_embd, config.n_embd)
        self.key_value = nn.Linear(config.cross_width, 2 * config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)

    @torch.jit.unused
    def write_cross_kv(self, states: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the keys and values of encoder `states` (rows, N, cross width) into views of the cache."""
        rows, count, _ = states.shape
        both = self.key_value(states).view(rows, count, 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        keys.copy_(both[0])
        values.copy_(both[1])

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows, steps, width = x.shape
        query = self.query(x).view(rows, steps, self.heads, self.head_width).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, keys, values)
        mixed: Tensor = self.out(out.transpose(1, 2).reshape(rows, steps, width))
        return mixed


class Block(nn.Module):
    """One layer: self-attention, cross-attention if the model has it, and the two-layer MLP."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        width, epsilon = config.n_embd, config.layer_norm_epsilon
        self.activation = config.activation_function
        self.norm_1 = nn.LayerNorm(width, eps=epsilon)
        self.attention = Attention(config)
        self.norm_cross = nn.LayerNorm(width, eps=epsilon) if config.cross_width else None
        self.cross = CrossAttention(config) if config.cross_width else None
        self.norm_2 = nn.LayerNorm(width, eps=epsilon)
        self.fc1 = nn.Linear(width, config.n_inner)
        self.fc2 = nn.Linear(config.n_inner, width)

    def forward(self, x: Tensor, context: AttentionContext, layer: int) -> Tensor:
        x = x + self.attention(self.norm_1(x), context, layer)
        if self.cross is not None and self.norm_cross is not None:
            keys, values = context.cross_keys, context.cross_values
            assert keys is not None and values is not None  # noqa: S101 - made by new_cache
            x = x + self.cross(self.norm_cross(x), keys[layer], values[layer])
        out: Tensor = self.fc2(_activate(self.fc1(self.norm_2(x)), self.activation))
        return x + out


class Blocks(nn.Module):
    """All layers in one call, for TorchScript to compile as a whole."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x: (R, S, width) → the same shape."""
        for layer, block in enumerate(self.blocks):
            x = block(x, context, layer)
        return x


class Head(nn.Module):
    """The final norm and the logits, for one position per row."""

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""
        # As sequences of one position: Int8Linear has a fast path for them.
        logits: Tensor = self.head(self.norm(hidden).unsqueeze(1)).squeeze(1)
        return logits.float()


class GPT2(nn.Module):
    """The decoder. The rows of a batch may have prefixes of different lengths, and may join and leave between steps."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte: nn.Module = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.head: nn.Module = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._backend: DecoderBackend | None = None
        self.fused_step: FusedStep | None = None
        """Runs passes over few positions in `StaticDecodeState`, where `kernels.fused_step` found that it can."""
        self.token_position_weight = 1.0
        """Factor of the position embedding of generated tokens (VideoCaptionerWithClip: 2)."""

    @property
    def device(self) -> torch.device:
        return self.wpe.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.wpe.weight.dtype

    @property
    def backend(self) -> DecoderBackend:
        """Runs the layers and the head. Set it once, after the weights are loaded."""
        # A new object each time: quantization may replace the head later, and storing it would be a reference cycle.
        return self._backend or EagerBackend(Blocks(self.blocks), Head(self.norm, self.head))

    @backend.setter
    def backend(self, backend: DecoderBackend) -> None:
        self._backend = backend

    def embed_token(self, token: int) -> Tensor:
        """The embedding of one token, (width,)."""
        embedding: Tensor = self.wte(torch.tensor(token, device=self.device))
        return embedding

    def new_cache(self, *, rows: int, positions: int, cross_positions: int = 0) -> KVCache:
        """An empty cache of this model's shape."""
        config = self.config
        return KVCache(
            layers=config.n_layer,
            heads=config.n_head,
            head_width=config.head_width,
            positions=min(positions, config.n_positions),
            rows=rows,
            cross_positions=cross_positions,
            device=self.device,
            dtype=self.dtype,
        )

    def prefill(self, prefix: Tensor, lengths: list[int], cache: KVCache) -> tuple[Tensor, CacheSlice]:
        """Prefill prefixes into new rows of `cache`.

        prefix: (rows, P, width), padded on the right to the longest of `lengths`. Returns the hidden state of each
        row's last position, (rows, width), before the head, and the slice of the cache that was written.
        """
        cache_slice = cache.append(lengths, prefix.shape[1])
        hidden = self.read(prefix, torch.tensor(lengths, device=self.device), cache.context(cache_slice))
        return hidden[:, 0], cache_slice

    def read(
        self, prefix: Tensor, lengths: Tensor, context: AttentionContext, following: Tensor | None = None
    ) -> Tensor:
        """One pass over prefixes, each followed by K guessed tokens; does not synchronize with the device.

        prefix: (rows, P, width), padded on the right; lengths: (rows,) int64; following: (rows, K) int64 tokens.
        Returns the hidden states of each row's last prefix position and of its K tokens, (rows, 1 + K, width).
        """
        x = prefix.to(self.dtype)
        output_steps = lengths.unsqueeze(1) - 1
        if following is not None:
            offsets = torch.arange(following.shape[1], device=x.device)
            positions = lengths.unsqueeze(1) + offsets
            # The `wpe` is added to all positions below; this adds the rest of the weight.
            tokens = self.wte(following) + (self.token_position_weight - 1) * self.wpe(positions)
            x = torch.cat((x, x.new_zeros(x.shape[0], following.shape[1], x.shape[2])), dim=1)
            x.scatter_(1, positions.unsqueeze(2).expand_as(tokens), tokens.to(x.dtype))
            output_steps = torch.cat((output_steps, positions), dim=1)
        x = x + self.wpe.weight[: x.shape[1]]
        return self.backend.run_layers(x, context, output_steps)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Run one more token of every row. tokens: (rows,) int64 → hidden states (rows, width), before the head."""
        hidden = self.extend(tokens.unsqueeze(1), cache)
        cache.accept([1] * cache.rows)
        return hidden[:, 0]

    def extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Run S more tokens of every row, each at its own length; `KVCache.accept` then updates the lengths.

        tokens: (rows, S) int64 → hidden states (rows, S, width), before the head.
        """
        cache_slice = cache.extend(tokens.shape[1])
        position = (
            self.wpe.weight[cache_slice.start : cache_slice.stop]
            if cache_slice.positions is None
            else self.wpe(cache_slice.positions)
        )
        x = self.wte(tokens) + self.token_position_weight * position
        return self.backend.run_layers(x, cache.context(cache_slice))

    def compile(self) -> None:
        """Run the layers as TorchScript from now on, if torch can compile them."""
        self.backend = TorchScriptBackend(Blocks(self.blocks), Head(self.norm, self.head))

    def write_cross_kv(self, cross: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the keys and values of encoder states (rows, N, cross width), (layers, rows, heads, N, …)."""
        for layer, block in enumerate(self.blocks):
            block.cross.write_cross_kv(cross, keys[layer], values[layer])  # type: ignore[union-attr, operator]

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""
        return self.backend.logits(hidden)
