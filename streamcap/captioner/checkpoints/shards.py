"""Checkpoints in several files with an index, as transformers writes them: `model.safetensors.index.json` and
`model-00001-of-00003.safetensors`, or the same with `pytorch_model` and `.bin`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from streamcap.atomic import read_json
from streamcap.captioner.checkpoints.settings import INDEX_SUFFIX
from streamcap.errors import InputError

_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)$")


def find_index(shard: Path) -> Path | None:
    """The index beside a file that is named like a shard; None for other files and where there is none."""
    named = _SHARD.match(shard.name)
    if named is None:
        return None
    index = shard.with_name(f"{named['stem']}{named['suffix']}{INDEX_SUFFIX}")
    return index if index.is_file() else None


def read_index(index: Path) -> dict[Path, list[str]]:
    """Each shard and the keys it holds. Raises InputError for a file that is no index, and where a shard is missing."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise InputError(f"{index}: no index of a sharded checkpoint (weight_map is missing)")
    shards: dict[Path, list[str]] = {}
    for key, name in weight_map.items():
        # A name that leads elsewhere could make us read any file.
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{index}: {key} is in {name!r}, which is no file name")
        shards.setdefault(index.with_name(name), []).append(key)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{index}: {missing[0]}{more} of {len(shards)} shards is missing")
    return shards
