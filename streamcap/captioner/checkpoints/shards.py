"""Sharded checkpoints in transformers' format.

An index, `model.safetensors.index.json`, and shards, `model-00001-of-00003.safetensors`; or the same with
`pytorch_model` and `.bin`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from streamcap.atomic import read_json
from streamcap.captioner.checkpoints.settings import INDEX_SUFFIX
from streamcap.errors import InputError

_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)$")


def find_index(shard: Path) -> Path | None:
    """The index beside a file that is named like a shard; None for other files, and without an index."""
    match = _SHARD.match(shard.name)
    if match is None:
        return None
    index = shard.with_name(f"{match['stem']}{match['suffix']}{INDEX_SUFFIX}")
    return index if index.is_file() else None


def read_index(index: Path) -> dict[Path, list[str]]:
    """Each shard and its keys. Raises InputError for a file that is no index, and if a shard is missing."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise InputError(f"{index}: not the index of a sharded checkpoint (weight_map is missing)")
    shards: dict[Path, list[str]] = {}
    for key, name in weight_map.items():
        # A name with a directory could point at any file on this machine.
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{index}: {key} is in {name!r}, which is not a file name")
        shards.setdefault(index.with_name(name), []).append(key)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{index}: {missing[0]}{more} of {len(shards)} shards is missing")
    return shards
