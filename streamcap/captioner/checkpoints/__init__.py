"""Loads checkpoints of every family, recognized by their keys or their config.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from streamcap.atomic import read_json
from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape, VisionTowerRef
from streamcap.captioner.checkpoints.families import clipcap, encoder_decoder, native, nyu, videocaptioner
from streamcap.captioner.checkpoints.settings import CheckpointSettings, settings_beside
from streamcap.captioner.checkpoints.shards import find_index
from streamcap.captioner.checkpoints.tensors import Weights, read_weights
from streamcap.errors import InputError
from streamcap.local_path import find_local

__all__ = ["Checkpoint", "EmbeddingShape", "VisionTowerRef", "open_checkpoint"]

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_MODEL_NAMES = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


def open_checkpoint(path: Path) -> Checkpoint:
    """Load a file, or a directory with one checkpoint. Raises InputError with a one-line message."""
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    if path.name.startswith("model.safetensors") and (path.parent / "config.json").is_file():
        config = read_json(path.parent / "config.json")
        if native.matches(config) or encoder_decoder.matches(config):
            return _open_directory(path.parent)
    return _open_file(find_index(path) or path)


def _open_directory(directory: Path) -> Checkpoint:
    config: dict[str, Any] = {}
    if (directory / "config.json").is_file():
        config = read_json(directory / "config.json")
    if native.matches(config):
        return native.load(directory, config)
    if encoder_decoder.matches(config):
        return encoder_decoder.load(directory, config)
    files = sorted(file for file in directory.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    # The shards of one checkpoint count as one.
    files = list(dict.fromkeys(find_index(file) or file for file in files))
    # A trainer's directory also holds its optimizer, scheduler and options.
    named = [file for file in files if file.name.startswith(_MODEL_NAMES)]
    files = [file for file in named if ".safetensors" in file.suffixes] or named or files
    if not files:
        raise InputError(f"{directory}: contains no checkpoint ({', '.join(_SUFFIXES)})")
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise InputError(f"{directory}: contains {len(files)} checkpoints ({names}); name one of them")
    checkpoint = _open_file(files[0])
    if checkpoint.tokenizer is None and any((directory / name).is_file() for name in _TOKENIZER_FILES):
        checkpoint.tokenizer = directory
    return checkpoint


def _open_file(path: Path) -> Checkpoint:
    settings = settings_beside(path)
    checkpoint = _open_weights(path, read_weights(path), settings)
    if settings.tokenizer is not None:
        # Relative to the json; `~` is expanded.
        beside = str(Path(settings.where).parent / os.path.expanduser(settings.tokenizer))  # noqa: PTH111
        directory = find_local(beside)
        if directory is not None:
            checkpoint.tokenizer = directory
        else:
            checkpoint.own_tokenizer = settings.tokenizer
    return checkpoint


def _open_weights(path: Path, weights: Weights, settings: CheckpointSettings) -> Checkpoint:
    keys = frozenset(weights)
    if clipcap.matches(keys):
        return nyu.load(path, weights, settings) if nyu.matches(weights) else clipcap.load(path, weights, settings)
    if videocaptioner.matches(keys):
        return videocaptioner.load(path, weights, settings)
    if any(key.startswith("decoder.transformer.") for key in keys):
        raise InputError(f"{path}: a VisionEncoderDecoderModel is loaded from its directory, with its config.json")
    example = ", ".join(sorted(keys)[:3])
    raise InputError(f"{path}: not a captioner of a known family (its keys begin with {example})")
