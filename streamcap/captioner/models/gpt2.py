"""GPT-2 for captions: prefill of a prefix of embeddings apart from the step, a cache written in place.

The arithmetic is that of GPT-2 as `transformers` runs it (`GPT2LMHeadModel`, pre-norm blocks, `gelu_new`); its fp32
greedy tokens are the same. Every linear layer is an `nn.Linear` so that a later pass can quantise them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.models.kv_cache import CacheSlice, KVCache
from streamcap.captioner.models.torchscript import Forward, to_torchscript
from streamcap.errors import InputError

_ACTIVATIONS = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu"}


@dataclass(frozen=True, slots=True)
class GPT2Config:
    """The sizes of a GPT-2; the names are those of `transformers`' GPT2Config."""

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
    """Width of the encoder states the blocks attend to as well; 0: no cross-attention."""

    def __post_init__(self) -> None:
        if self.n_head < 1 or self.n_embd % self.n_head:
            raise InputError(f"GPT-2: width {self.n_embd} does not divide into {self.n_head} heads")
        if self.activation_function not in _ACTIVATIONS:
            raise InputError(f"GPT-2: activation {self.activation_function!r} is not supported")

    @property
    def head_width(self) -> int:
        return self.n_embd // self.n_head

    def to_json(self) -> dict[str, Any]:
        """As it stands in a config.json under `gpt2`; `transformers` reads it as well."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "cross_width"}


def _activate(x: Tensor, name: str) -> Tensor:
    if name == "gelu":
        return F.gelu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh")


class Attention(nn.Module):
    """Causal self-attention with one product for queries, keys and values."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads, self.head_width = config.n_head, config.head_width
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        start: int,
        stop: int,
        causal: bool,
        positions: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """x: (rows, S, width); `keys` and `values` are those rows' cache (rows, heads, positions, head width).

        Writes columns `start` to `stop`, or one column a row, `positions`; reads what `stop` and `mask` let it.
        """
        rows, steps, width = x.shape
        qkv = self.qkv(x).view(rows, steps, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        if positions is None:
            keys[:, :, start:stop] = key
            values[:, :, start:stop] = value
        else:
            column = positions.view(rows, 1, 1, 1).expand(rows, self.heads, 1, self.head_width)
            keys.scatter_(2, column, key)
            values.scatter_(2, column, value)
        out = F.scaled_dot_product_attention(
            query, keys[:, :, :stop], values[:, :, :stop], attn_mask=mask, is_causal=causal
        )
        mixed: Tensor = self.out(out.transpose(1, 2).reshape(rows, steps, width))
        return mixed


class CrossAttention(nn.Module):
    """Attention to encoder states whose keys and values were computed once for the frame."""

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
    """One layer: self-attention, cross-attention where the model has it, and the two-layer perceptron."""

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

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        cross_keys: Tensor | None,
        cross_values: Tensor | None,
        start: int,
        stop: int,
        causal: bool,
        positions: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        x = x + self.attention(self.norm_1(x), keys, values, start, stop, causal, positions, mask)
        if self.cross is not None and self.norm_cross is not None:
            assert cross_keys is not None and cross_values is not None  # noqa: S101 - made by new_cache
            x = x + self.cross(self.norm_cross(x), cross_keys, cross_values)
        narrowed: Tensor = self.fc2(_activate(self.fc1(self.norm_2(x)), self.activation))
        return x + narrowed


class Blocks(nn.Module):
    """All layers in one call: what TorchScript compiles, so that no time goes to Python between two products."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        cross_keys: Tensor | None,
        cross_values: Tensor | None,
        start: int,
        stop: int,
        causal: bool,
        positions: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """x: (rows, S, width); the cache's tensors (layers, rows, heads, positions, head width), those rows alone."""
        for layer, block in enumerate(self.blocks):
            cross_key = None if cross_keys is None else cross_keys[layer]
            cross_value = None if cross_values is None else cross_values[layer]
            x = block(x, keys[layer], values[layer], cross_key, cross_value, start, stop, causal, positions, mask)
        return x


class Head(nn.Module):
    """The last norm and the vocabulary's logits, of one position a row."""

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""
        # As a sequence of one position, which is what an Int8Linear takes rows of a batch for.
        logits: Tensor = self.head(self.norm(hidden).unsqueeze(1)).squeeze(1)
        return logits.float()


class GPT2(nn.Module):
    """The decoder. Rows of a batch may have prefixes of different length and may join and leave between steps."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte: nn.Module = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.head: nn.Module = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        # In a tuple, so that it is no second owner of the weights.
        self._blocks_pass: tuple[Forward] = (Blocks(self.blocks),)
        self._head_pass: Forward | None = None
        self._picks = False
        self.token_position_weight = 1.0
        """How many times a generated token carries its position's embedding (VideoCaptionerWithClip: 2)."""

    @property
    def device(self) -> torch.device:
        return self.wpe.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.wpe.weight.dtype

    def embed_token(self, token: int) -> Tensor:
        """The embedding of one token, (width,)."""
        found: Tensor = self.wte(torch.tensor(token, device=self.device))
        return found

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

    def prefill(
        self,
        prefix: Tensor,
        lengths: list[int],
        cache: KVCache,
        *,
        cache_slice: CacheSlice | None = None,
        cross: Tensor | None = None,
    ) -> tuple[Tensor, CacheSlice]:
        """Read prefixes into new rows of `cache`.

        prefix: (rows, P, width), padded on the right where `lengths` says so. cross: (rows, N, cross width) encoder
        states. With `cache_slice` (as returned before) those rows are read anew in place. Returns the hidden states of each
        row's last position, (rows, width), before the head, and where they were written.
        """
        width = prefix.shape[1]
        if cache_slice is None:
            cache_slice = cache.append(lengths, width)
        if cross is not None and cache.cross_keys is not None and cache.cross_values is not None:
            self.write_cross_kv(cross, cache.cross_keys[:, cache_slice.rows], cache.cross_values[:, cache_slice.rows])
        x = prefix.to(self.dtype) + self.wpe.weight[:width]
        last = torch.tensor(lengths, device=x.device) - 1
        if self._picks:
            return self._pass(x, cache, cache_slice, last), cache_slice
        x = self._pass(x, cache, cache_slice)
        if min(lengths) == width:
            return x[:, -1], cache_slice
        return x[torch.arange(len(lengths), device=x.device), last], cache_slice

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """One more token for every row in use. tokens: (rows,) int64 → hidden states (rows, width), before the head."""
        cache_slice = cache.advance()
        position = (
            self.wpe.weight[cache_slice.start] if cache_slice.positions is None else self.wpe(cache_slice.positions)
        )
        x = (self.wte(tokens) + self.token_position_weight * position).unsqueeze(1)
        return self._pass(x, cache, cache_slice)[:, 0]

    def run_with(self, layers: Forward, head: Forward) -> None:
        """Run these from now on: one called as `Blocks.forward`, one as `Head.forward`.

        `layers` also takes `last`, int64 (rows,), and then gives those positions alone, (rows, width).
        """
        self._blocks_pass, self._head_pass, self._picks = (layers,), head, True

    def compile(self) -> None:
        """Run the layers as TorchScript from now on, where torch can."""
        self._blocks_pass = (to_torchscript(Blocks(self.blocks)),)
        head = to_torchscript(Head(self.norm, self.head))
        self._head_pass = None if isinstance(head, nn.Module) else head

    def _pass(self, x: Tensor, cache: KVCache, cache_slice: CacheSlice, *last: Tensor) -> Tensor:
        rows = cache_slice.rows
        cross_keys = None if cache.cross_keys is None else cache.cross_keys[:, rows]
        cross_values = None if cache.cross_values is None else cache.cross_values[:, rows]
        keys, values = cache.keys[:, rows], cache.values[:, rows]
        return self.run_blocks(
            x, keys, values, cross_keys, cross_values,
            cache_slice.start, cache_slice.stop, cache_slice.causal, cache_slice.positions, cache_slice.mask, *last,
        )  # fmt: skip

    def run_blocks(self, x: Tensor, *where: Any) -> Tensor:
        """`Blocks.forward`, compiled or not."""
        out: Tensor = self._blocks_pass[0](x, *where)
        return out

    def write_cross_kv(self, cross: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write what the blocks attend to of encoder states (rows, N, cross width): (layers, rows, heads, N, …)."""
        for layer, block in enumerate(self.blocks):
            block.cross.write_cross_kv(cross, keys[layer], values[layer])  # type: ignore[union-attr, operator]

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""
        if self._head_pass is not None:
            return self._head_pass(hidden)
        logits: Tensor = Head(self.norm, self.head)(hidden)
        return logits


# Buffers that transformers before 4.31 saved beside the weights.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".crossattention.bias", ".crossattention.masked_bias")


def is_buffer(key: str) -> bool:
    """Whether `key` is a causal-mask buffer of an old GPT-2 file: no weight, and safely left out."""
    return key.endswith(_BUFFERS)


def expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Every key of `transformers`' GPT2LMHeadModel and its shape; Conv1D weights are (in, out)."""
    width, inner, cross = config.n_embd, config.n_inner, config.cross_width
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, width),
        "transformer.wpe.weight": (config.n_positions, width),
    }
    for layer in range(config.n_layer):
        sizes = {
            "ln_1.weight": (width,),
            "ln_1.bias": (width,),
            "attn.c_attn.weight": (width, 3 * width),
            "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (width, width),
            "attn.c_proj.bias": (width,),
            "ln_2.weight": (width,),
            "ln_2.bias": (width,),
            "mlp.c_fc.weight": (width, inner),
            "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (inner, width),
            "mlp.c_proj.bias": (width,),
        }
        if cross:
            sizes |= {
                "ln_cross_attn.weight": (width,),
                "ln_cross_attn.bias": (width,),
                "crossattention.q_attn.weight": (width, width),
                "crossattention.q_attn.bias": (width,),
                "crossattention.c_attn.weight": (cross, 2 * width),
                "crossattention.c_attn.bias": (2 * width,),
                "crossattention.c_proj.weight": (width, width),
                "crossattention.c_proj.bias": (width,),
            }
        shapes |= {f"transformer.h.{layer}.{name}": size for name, size in sizes.items()}
    shapes |= {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}
    shapes["lm_head.weight"] = (config.vocab_size, width)
    return shapes


_OWN_NAMES = {
    "ln_1": "norm_1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_cross_attn": "norm_cross",
    "crossattention.q_attn": "cross.query",
    "crossattention.c_attn": "cross.key_value",
    "crossattention.c_proj": "cross.out",
    "ln_2": "norm_2",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
}


def from_transformers(config: GPT2Config, weights: Mapping[str, Tensor]) -> GPT2:
    """A GPT2 from tensors named and shaped as in GPT2LMHeadModel (see `expected_shapes`), which were checked before.

    `lm_head.weight` may be missing: the head is then the token embedding. Conv1D weights (in, out) are transposed and
    made contiguous, as `F.linear` reads them fastest.
    """
    with torch.device("meta"):
        model = GPT2(config)
    own: dict[str, Tensor] = {}
    wte = weights["transformer.wte.weight"].detach().to(torch.float32)
    own["wte.weight"] = wte
    own["wpe.weight"] = weights["transformer.wpe.weight"].detach().to(torch.float32)
    head = weights.get("lm_head.weight")
    untied = head is not None and not torch.equal(head, weights["transformer.wte.weight"])
    own["head.weight"] = head.detach().to(torch.float32) if untied and head is not None else wte
    for kind in ("weight", "bias"):
        own[f"norm.{kind}"] = weights[f"transformer.ln_f.{kind}"].detach().to(torch.float32)
    for layer in range(config.n_layer):
        for theirs, ours in _OWN_NAMES.items():
            for kind in ("weight", "bias"):
                tensor = weights.get(f"transformer.h.{layer}.{theirs}.{kind}")
                if tensor is None:
                    continue
                tensor = tensor.detach().to(torch.float32)
                own[f"blocks.{layer}.{ours}.{kind}"] = tensor.t().contiguous() if tensor.dim() == 2 else tensor
    model.load_state_dict(own, assign=True)
    if not untied:
        model.head.weight = model.get_parameter("wte.weight")
    return model.eval().requires_grad_(False)
