"""GPT-2's weights in `transformers`' format: the expected keys and shapes, and the conversion to a `GPT2`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from streamcap.captioner.models.gpt2 import GPT2, GPT2Config
from streamcap.captioner.models.uninitialized import uninitialized

# Buffers that transformers before 4.31 saved with the weights.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".crossattention.bias", ".crossattention.masked_bias")


def is_buffer(key: str) -> bool:
    """Whether `key` is a causal-mask buffer of an old GPT-2 file, which is no weight and can be ignored."""
    return key.endswith(_BUFFERS)


def expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of `transformers`' GPT2LMHeadModel; Conv1D weights are (in, out)."""
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
    """A GPT2 from the weights of a GPT2LMHeadModel, already checked (see `expected_shapes`).

    Without `lm_head.weight`, the head is tied to the token embedding. Conv1D weights (in, out) are transposed and made
    contiguous, which `F.linear` reads fastest.
    """
    with uninitialized():
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
