"""Small random models, built by `transformers` (the reference) and by streamcap with the same weights."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.vit import VisionTransformer, ViTConfig


def gpt2(
    seed: int, *, width: int = 64, heads: int = 4, layers: int = 2, vocabulary: int = 120, **more: object
) -> GPT2LMHeadModel:
    """A random GPT-2; its weights are large, so that captions differ and have many tokens."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=96,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=vocabulary - 1,
        eos_token_id=vocabulary - 1,
        initializer_range=0.25,
        **more,
    )
    return GPT2LMHeadModel(config).eval()


def ours(**more: object) -> GPT2:
    """Our decoder with the weights of `gpt2(1)`."""
    theirs = gpt2(1, **more)
    return load_gpt2(theirs.state_dict(), theirs.config.to_dict(), "test", prefix="")


def tower() -> VisionTransformer:
    """A small CLIP vision tower: (B, 3, 64, 64) → (B, 48)."""
    config = ViTConfig(
        image=64, patch=8, width=64, layers=2, heads=4, inner=128, activation="quick_gelu", epsilon=1e-5,
        output="projected", pre_norm=True, patch_bias=False, projection=48,
    )  # fmt: skip
    torch.manual_seed(0)
    return VisionTransformer(config).eval()


def generate(model: GPT2LMHeadModel, prefix: torch.Tensor, stop: int, tokens: int) -> list[int]:
    """Greedy tokens of `transformers` for one prefix (P, width), the stop token included."""
    mask = torch.ones(1, len(prefix), dtype=torch.long)
    out = model.generate(
        inputs_embeds=prefix[None],
        attention_mask=mask,
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
    )
    row: list[int] = out[0].tolist()
    return row
