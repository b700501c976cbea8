"""The feature cache: the encoder's features of every image or clip, in memory-mapped safetensors shards.

    manifest.json              encoder, counts, skipped items with reasons, whether the cache is complete
    train-00000.safetensors    `features`, (n, ...) float16; the names of its n items are in the metadata
    train.json                 the captions of every item, by name

A shard is written atomically and covers a fixed range of its split, so a stopped run continues with the first missing
shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from streamcap.atomic import atomic_write, make_directory, read_json, write_json
from streamcap.captioner.checkpoints.settings import EncoderRef
from streamcap.errors import InputError, StreamcapError
from streamcap.training.data.corpus import Item, Problem

VERSION = 1
SHARD_ITEMS = 1000
Features = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a split, and the position of its features."""

    name: str
    captions: tuple[str, ...]
    shard: int
    row: int


class CacheWriter:
    """Writes a new cache, or continues one that was stopped.

    Raises InputError if the folder holds a cache of another encoder, frame count or corpus (it is left unchanged), or
    if the folder cannot be created.
    """

    def __init__(self, folder: Path, encoder: EncoderRef, frames: int | None, splits: dict[str, list[Item]]) -> None:
        self.folder = folder
        self.frames = frames
        self._splits = splits
        self._identity = {
            "version": VERSION,
            "encoder": asdict(encoder),
            "frames": frames,
            "listed": {split: len(items) for split, items in splits.items()},
            "names": {split: digest([item.name for item in items]) for split, items in splits.items()},
        }
        if (folder / "manifest.json").is_file():
            _check_identity(folder, _read_manifest(folder), self._identity)
        elif folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: not empty and not a feature cache; name another folder")
        else:
            make_directory(folder)
            self._write_manifest(complete=False, problems=[])

    def missing(self, readable: Callable[[Item], bool] = lambda item: False) -> Iterator[tuple[str, int, list[Item]]]:
        """(split, shard number, items) of every shard to write: it is missing or damaged, or it skipped an item that
        is `readable` now."""
        for split, items in self._splits.items():
            for number, start in enumerate(range(0, len(items), SHARD_ITEMS)):
                shard_items = items[start : start + SHARD_ITEMS]
                try:
                    skipped = {problem.name for problem in self._skipped(split, number)}
                except (OSError, SafetensorError):
                    yield split, number, shard_items
                    continue
                if any(item.name in skipped and readable(item) for item in shard_items):
                    yield split, number, shard_items

    def reopen(self) -> None:
        """Mark the cache as incomplete, before one of its shards is rewritten."""
        self._write_manifest(complete=False, problems=[])

    def write(self, split: str, number: int, names: list[str], features: Features, skipped: list[Problem]) -> None:
        """Write one shard: features (n, ...) of the items `names`, and the items of its range that were skipped."""
        metadata = {"names": json.dumps(names), "skipped": json.dumps([asdict(problem) for problem in skipped])}
        atomic_write(
            self._shard(split, number),
            save({"features": np.ascontiguousarray(features)}, metadata),
            sync=True,
            error=StreamcapError,
        )

    def finish(
        self, problems: list[Problem], on_problem: Callable[[Problem], None] = lambda problem: None
    ) -> dict[str, Any]:
        """Write the captions and the manifest of the complete cache; return the manifest.

        on_problem: called for every skipped item. Raises InputError if no item of a split could be read.
        """
        counts = {}
        for split, items in self._splits.items():
            kept: set[str] = set()
            for number in range(-(-len(items) // SHARD_ITEMS)):
                kept.update(json.loads(self._metadata(split, number)["names"]))
                for problem in self._skipped(split, number):
                    on_problem(problem)
                    problems.append(problem)
            if not kept:
                raise InputError(
                    f"{self.folder}: no item of the split {split} could be read; repair the items listed above and run "
                    "this command again"
                )
            counts[split] = len(kept)
            write_json(self.folder / f"{split}.json", {item.name: item.captions for item in items if item.name in kept})
        return self._write_manifest(complete=True, problems=problems, counts=counts)

    def _shard(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number:05d}.safetensors"

    def _metadata(self, split: str, number: int) -> dict[str, str]:
        with safe_open(self._shard(split, number), "np") as shard:
            metadata: dict[str, str] = shard.metadata()
        return metadata

    def _skipped(self, split: str, number: int) -> list[Problem]:
        return [Problem(**problem) for problem in json.loads(self._metadata(split, number)["skipped"])]

    def _write_manifest(self, *, complete: bool, problems: list[Problem], **more: Any) -> dict[str, Any]:
        tally: dict[str, int] = {}
        for problem in problems:
            tally[problem.why] = tally.get(problem.why, 0) + 1
        manifest = {
            **self._identity,
            "complete": complete,
            "shard_items": SHARD_ITEMS,
            **more,
            "skipped": tally,
            "problems": [asdict(problem) for problem in problems],
        }
        write_json(self.folder / "manifest.json", manifest)
        return manifest


class FeatureCache:
    """A complete cache, read through memory maps. Raises InputError if `folder` holds no cache or an incomplete one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        if not self.manifest.get("complete"):
            raise InputError(f"{folder}: incomplete feature cache; run `streamcap dataset` on it again")
        self.encoder = EncoderRef(**self.manifest["encoder"])
        self.frames: int | None = self.manifest["frames"]
        self._shards: dict[str, list[Any]] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest["counts"])

    def examples(self, split: str) -> list[Example]:
        """Every item of a split. Raises InputError for an unknown split or a damaged shard."""
        if split not in self.splits:
            raise InputError(f"{self.folder}: has no split {split!r}; it has {', '.join(self.splits)}")
        captions = read_json(self.folder / f"{split}.json")
        shards, out = [], []
        for number in range(-(-self.manifest["listed"][split] // SHARD_ITEMS)):
            path = self.folder / f"{split}-{number:05d}.safetensors"
            try:
                shard = safe_open(path, "np")
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path}: cannot be read ({error}); delete it and run `streamcap dataset`") from None
            shards.append(shard)
            metadata: dict[str, str] = shard.metadata()  # type: ignore[no-untyped-call]
            for row, name in enumerate(json.loads(metadata["names"])):
                out.append(Example(name, tuple(captions[name]), number, row))
        self._shards[split] = [_slice(shard) for shard in shards]
        return out

    def features(self, split: str, examples: list[Example]) -> npt.NDArray[np.float32]:
        """float32 (B, ...) features of `examples`; call `self.examples(split)` first."""
        shards = self._shards[split]
        return np.stack([shards[e.shard][e.row : e.row + 1][0] for e in examples]).astype(np.float32)


def digest(content: object) -> str:
    """SHA-256, in hexadecimal, of the JSON of `content`."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _slice(shard: Any) -> Any:
    return shard.get_slice("features")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(f"{folder}: not a feature cache (manifest.json is missing)")
    content = read_json(path)
    if content.get("version") != VERSION:
        raise InputError(f"{path}: not a feature cache manifest of version {VERSION}")
    return content


def _check_identity(folder: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, title in {"encoder": "encoder", "frames": "frames per clip", "listed": "number of items"}.items():
        if stored.get(key) != expected[key]:
            raise InputError(
                f"{folder}: holds a cache with a different {title} ({stored.get(key)}, not {expected[key]}); "
                "name another folder, nothing was overwritten"
            )
    other = [split for split, names in expected["names"].items() if stored.get("names", {}).get(split) != names]
    if other:
        raise InputError(
            f"{folder}: holds other images or clips in the split {', '.join(other)}; name another folder, nothing was "
            "overwritten"
        )
