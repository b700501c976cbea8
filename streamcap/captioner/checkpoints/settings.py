"""The json beside a checkpoint: settings that the shapes of the weights do not determine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamcap.atomic import read_json
from streamcap.errors import InputError

INDEX_SUFFIX = ".index.json"
"""Suffix of the index, which maps each tensor to its shard."""
_EPOCH = re.compile(r"-(?:\d+|latest)$")


@dataclass(frozen=True, slots=True)
class EncoderRef:
    """The vision encoder that made the features on which streamcap trains a mapping."""

    name: str
    """`mini`, a directory, or a CLIP's name on the hub."""
    feature_kind: str
    """`projected`, `pooled` or `grid`."""
    fingerprint: str
    """SHA-256 of its weights (`models.vision.fingerprint`): encoders of one name may differ."""

    @classmethod
    def from_json(cls, content: object) -> EncoderRef | None:
        """None for content that streamcap did not write: other trainers may use the key for something else."""
        if not isinstance(content, Mapping):
            return None
        values = [content.get(key) for key in ("name", "feature_kind", "fingerprint")]
        return cls(*map(str, values)) if all(isinstance(value, str) for value in values) else None


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """The known keys of the json; all others are ignored. None: absent, use the family's default."""

    where: str
    """The file, for messages."""
    gpt2: Mapping[str, Any] = field(default_factory=dict)
    mapper_heads: int | None = None
    n_heads: int | None = None
    cross: bool = False
    clip_length: int | None = None
    max_tokens: int | None = None
    max_len: int | None = None
    """VideoCaptionerWithClip's name for `max_tokens`."""
    stop_token_id: int | None = None
    clip_vision: Mapping[str, Any] = field(default_factory=dict)
    """A CLIPVisionConfig for the vision model in the file; the shapes do not determine its number of heads."""
    encoder: EncoderRef | None = None
    tokenizer: str | None = None
    """A directory (relative to the json's), or a hub name."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> CheckpointSettings:
        """Raises InputError that names a key of the wrong type or range."""
        nested = {}
        for key in ("gpt2", "clip_vision"):
            nested[key] = content.get(key) or {}
            if not isinstance(nested[key], Mapping):
                raise InputError(f"{where}: {key} is a configuration (a json object), not {nested[key]!r}")
        cross = content.get("cross") or False
        if not isinstance(cross, bool):
            raise InputError(f"{where}: cross is true or false, not {cross!r}")
        tokenizer = content.get("tokenizer")
        if tokenizer is not None and (not isinstance(tokenizer, str) or not tokenizer):
            raise InputError(f"{where}: tokenizer is a directory or a hub name, not {tokenizer!r}")
        longest = "max_tokens" if content.get("max_tokens") is not None else "entry_length"
        return cls(
            where=where,
            gpt2=nested["gpt2"],
            clip_vision=nested["clip_vision"],
            mapper_heads=read_int(content, "mapper_heads", where, minimum=1),
            n_heads=read_int(content, "n_heads", where, minimum=1),
            cross=cross,
            clip_length=read_int(content, "clip_length", where, minimum=1),
            max_tokens=read_int(content, longest, where, minimum=1),
            max_len=read_int(content, "max_len", where, minimum=1),
            stop_token_id=read_int(content, "stop_token_id", where, minimum=0),
            encoder=EncoderRef.from_json(content.get("encoder")),
            tokenizer=tokenizer,
        )


def read_int(content: Mapping[str, Any], key: str, where: str, *, minimum: int) -> int | None:
    """The whole number under `key`; None if absent. Raises InputError for anything else."""
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InputError(f"{where}: {key} is a whole number of at least {minimum}, not {value!r}")
    return value


def is_index(path: Path) -> bool:
    """Whether this is the index of a sharded checkpoint in transformers' format."""
    return path.name.endswith(INDEX_SUFFIX)


def settings_beside(path: Path) -> CheckpointSettings:
    """The settings of a weights file; defaults if there are none.

    Read from STEM.json; else (NYU) from PREFIX.json for PREFIX-009.pt; else from config.json, for `model.*` and
    `pytorch_model.*`.
    """
    stem = path.name.removesuffix(INDEX_SUFFIX).rpartition(".")[0] if is_index(path) else path.stem
    beside = [path.with_name(f"{stem}.json"), path.with_name(_EPOCH.sub("", stem) + ".json")]
    if stem in ("model", "pytorch_model"):
        beside.append(path.with_name("config.json"))
    for candidate in beside:
        if candidate.is_file():
            return CheckpointSettings.from_json(read_json(candidate), str(candidate))
    return CheckpointSettings(where=str(path))
