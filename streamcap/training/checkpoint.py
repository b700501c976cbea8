"""Save a model that was trained on cached features as a checkpoint for `load_captioner`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from streamcap.atomic import atomic_write, write_json
from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.families.native import save_native
from streamcap.captioner.models.vision import Vision, fingerprint
from streamcap.errors import InputError, StreamcapError
from streamcap.training.data.encoders import encoder_directory
from streamcap.training.data.feature_cache import FeatureCache
from streamcap.training.gpt2 import stored_config
from streamcap.training.mappings import BuiltMapping, stored_tensors
from streamcap.training.model import CaptionModel

_PREFIXES = {"clipcap": ("clip_project.", "gpt."), "videocaptioner": ("mp.", "td.model.")}


def save_checkpoint(
    directory: Path,
    model: CaptionModel,
    built: BuiltMapping,
    cache: FeatureCache,
    tokenizer: Tokenizer,
    max_tokens: int,
) -> None:
    """Write model.safetensors, config.json and tokenizer.json in the layout of the mapping.

    A grid mapping is saved in streamcap's layout, which includes the vision encoder of the cache. Raises InputError as
    `bundled_vision` does.
    """
    directory.mkdir(parents=True, exist_ok=True)
    gpt2 = stored_config(model.gpt)
    stop = int(gpt2["eos_token_id"])
    if built.layout == "streamcap":
        _save_native(directory, model, built, cache, tokenizer, max_tokens)
        return
    mapping, decoder = _PREFIXES[built.layout]
    tensors: dict[str, Tensor] = {f"{mapping}{name}": tensor for name, tensor in stored_tensors(built).items()}
    tensors |= {f"{decoder}{name}": t for name, t in model.gpt.state_dict().items() if name != "lm_head.weight"}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    atomic_write(directory / "model.safetensors", content, sync=True, error=StreamcapError)
    write_json(
        directory / "config.json",
        {
            "gpt2": gpt2,
            "stop_token_id": stop,
            "max_tokens": max_tokens,
            "encoder": asdict(cache.encoder),
            **built.config,
        },
    )
    atomic_write(directory / "tokenizer.json", tokenizer.to_str().encode(), sync=True, error=StreamcapError)


def bundled_vision(cache: FeatureCache) -> Vision:
    """The vision encoder that made `cache`. Raises InputError if its files are missing or have changed."""
    source = encoder_directory(cache.encoder.name)
    if not (source / "config.json").is_file():
        raise InputError(f"{cache.encoder.name}: not found; {cache.folder} was made with this encoder")
    vision = open_checkpoint(source).vision
    if vision is None or fingerprint(vision) != cache.encoder.fingerprint:
        raise InputError(
            f"{cache.folder}: the encoder {cache.encoder.name} has changed since this cache was made; make a new cache "
            "with `streamcap dataset`, in another folder"
        )
    return vision


def _save_native(
    directory: Path,
    model: CaptionModel,
    built: BuiltMapping,
    cache: FeatureCache,
    tokenizer: Tokenizer,
    max_tokens: int,
) -> None:
    vision = bundled_vision(cache)
    encoder = json.loads((encoder_directory(cache.encoder.name) / "config.json").read_text(encoding="utf-8"))
    gpt2 = stored_config(model.gpt)
    save_native(
        directory,
        config={
            "vision": encoder["vision"],
            "image": encoder["image"],
            "mapping": {**built.config, "dropout": 0.0},
            "gpt2": gpt2,
            "bos_token_id": gpt2["bos_token_id"],
            "eos_token_id": gpt2["eos_token_id"],
            "max_tokens": max_tokens,
        },
        vision=vision.encoder.state_dict(),
        mapping=model.mapping.state_dict(),
        gpt2=model.gpt.state_dict(),
        tokenizer=tokenizer.to_str(),
        dtype=torch.float32,
    )
