"""Converts any checkpoint to safetensors with a config.json: it loads faster and contains no pickle."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from streamcap.captioner.checkpoints import Checkpoint, open_checkpoint
from streamcap.captioner.checkpoints.settings import settings_beside
from streamcap.captioner.checkpoints.tensors import Weights, read_weights
from streamcap.captioner.checkpoints.towers import weights_file
from streamcap.captioner.models.gpt2_weights import is_buffer
from streamcap.errors import InputError

_BESIDE = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "README.md",
)


def convert_checkpoint(source: Path, destination: Path) -> Checkpoint:
    """Write `source` to the new directory `destination`, and load it from there.

    Atomic: a failure leaves nothing behind. Raises InputError if the source does not load, or if the destination exists
    or cannot be written.
    """
    if destination.exists():
        raise InputError(f"{destination}: already exists; name a new directory")
    checkpoint = open_checkpoint(source)
    parent = destination.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}-", dir=parent) as scratch:
            directory = Path(scratch) / "checkpoint"
            directory.mkdir()
            _write(checkpoint, directory)
            open_checkpoint(directory)
            directory.rename(destination)
    except OSError as error:
        raise InputError(f"{destination}: cannot be written ({error.strerror or error})") from None
    return open_checkpoint(destination)


def _write(checkpoint: Checkpoint, directory: Path) -> None:
    path = checkpoint.path
    if path.is_dir():
        weights = read_weights(weights_file(path))
        for name in _BESIDE:
            if (path / name).is_file():
                shutil.copyfile(path / name, directory / name)
    else:
        weights = read_weights(path)
        text = json.dumps(_configuration(checkpoint), indent=2, ensure_ascii=False)
        (directory / "config.json").write_text(text + "\n", encoding="utf-8")
        _copy_tokenizer(checkpoint.tokenizer, directory)
    save_file(_own_memory(weights), directory / "model.safetensors", metadata={"format": "pt"})


def _copy_tokenizer(tokenizer: Path | None, directory: Path) -> None:
    """tokenizer: a tokenizer.json of any name, or the directory of one."""
    if tokenizer is None:
        return
    if tokenizer.is_file():
        shutil.copyfile(tokenizer, directory / "tokenizer.json")
        return
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"):
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, directory / name)


def _own_memory(weights: Weights) -> Weights:
    """Tensors as safetensors requires them: contiguous, no two in the same memory.

    A tied head (equal to the embedding) and the mask buffers of old files are left out.
    """
    kept: Weights = {}
    seen: set[int] = set()
    for key, tensor in weights.items():
        embedding = weights.get(f"{key.removesuffix('lm_head.weight')}transformer.wte.weight")
        if is_buffer(key) or key.endswith("embeddings.position_ids"):
            continue
        if key.endswith("lm_head.weight") and embedding is not None and _same(tensor, embedding):
            continue
        memory = tensor.untyped_storage().data_ptr()
        kept[key] = tensor.clone().contiguous() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return kept


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _configuration(checkpoint: Checkpoint) -> dict[str, Any]:
    """The json beside the weights, with explicit values for everything that was inferred from shapes."""
    settings = settings_beside(checkpoint.path)
    (stop,) = checkpoint.stop_tokens
    # A tokenizer other than OpenAI's has a stop token of its own.
    openai = checkpoint.tokenizer is None and checkpoint.own_tokenizer is None
    fields: dict[str, Any] = {
        "family": checkpoint.family,
        "gpt2": checkpoint.gpt2.config.to_json(),
        "mapper_heads": settings.mapper_heads,
        "n_heads": settings.n_heads,
        "cross": settings.cross or None,
        "clip_length": settings.clip_length,
        "max_tokens": checkpoint.max_tokens,
        "stop_token_id": stop if openai or checkpoint.stop_rule == "fixed" else None,
        "tokenizer": checkpoint.own_tokenizer,
        "clip_vision": dict(settings.clip_vision) or None,
        "encoder": asdict(settings.encoder) if settings.encoder is not None else None,
    }
    return {key: value for key, value in fields.items() if value is not None}
