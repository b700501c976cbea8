"""Runs a long storm as several clusters one after another, and goes on where an earlier run was broken off.

The file has one entry for each cluster, written anew after each judgement: what was judged before an interruption
counts, and the rest is struck by the next run.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from testbed.cluster.judge import percentile
from tests.cluster.storm import Outcome

MAX_BROKEN = 3
"""Clusters that may end before they are judged to their end, in one run."""


class RunStorm(Protocol):
    """`run_storm` with its other options."""

    def __call__(self, kills: int, directory: Path, *, seed: int, report: Callable[[Outcome], None]) -> Outcome: ...


def run_shards(
    run: RunStorm, kills: int, path: Path, *, strikes: int, seed: int = 0, say: Callable[[str], None] = print
) -> bool:
    """Strike until `path` has `kills` judged strikes, at most `strikes` at one cluster. Whether no promise was broken
    and no process ended by itself."""
    shards: list[dict[str, Any]] = json.loads(path.read_text())["shards"] if path.exists() else []
    broken = 0
    while (left := kills - sum(map(_judged, shards))) > 0 and not _violations(shards) and broken < MAX_BROKEN:
        began = time.monotonic()
        number = len(shards)
        say(f"cluster {number + 1}: {min(left, strikes)} strikes, {left} left")

        def note(outcome: Outcome, error: str = "", *, number: int = number, began: float = began) -> None:
            entry = {**outcome.as_json(), "seed": seed + number, "seconds": round(time.monotonic() - began)}
            entry |= {"load_average": round(os.getloadavg()[0], 1), "error": error}
            shards[number:] = [entry]
            _write(path, shards)
            say(json.dumps({key: entry[key] for key in ("strikes", "is_complete", "violations", "error")}))

        with tempfile.TemporaryDirectory() as directory:
            try:
                note(run(min(left, strikes), Path(directory), seed=seed + number, report=note))
            except (AssertionError, OSError) as error:  # a process that ended, or a state that did not come
                broken += 1
                if len(shards) == number:
                    note(Outcome())
                shards[number]["error"] = str(error)[-2000:]
                _write(path, shards)
                say(f"broken off: {error}")
    return not _violations(shards) and not any(shard["error"] for shard in shards)


def _judged(shard: dict[str, Any]) -> int:
    return sum(shard["strikes"].values())


def _violations(shards: list[dict[str, Any]]) -> list[str]:
    return [violation for shard in shards for violation in shard["violations"]]


def _write(path: Path, shards: list[dict[str, Any]]) -> None:
    total: dict[str, Any] = {"strikes": sum(map(_judged, shards)), "violations": len(_violations(shards))}
    for key in ("takeovers", "finals_stored", "finals_received", "finals_recorded", "gaps"):
        total[key] = sum(shard[key] for shard in shards)
    total["broken_off"] = sum(bool(shard["error"]) for shard in shards)
    for name, key in (
        ("recovery_alone", "recoveries_alone_s"),
        ("recovery_others", "recoveries_others_s"),
        ("nats_pause", "nats_pauses_s"),
    ):
        values = [value for shard in shards for value in shard[key]]
        total[f"{name}_count"] = len(values)
        total |= {f"{name}_p{share}_s": percentile(values, share / 100) for share in (50, 95, 100)}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({"total": total, "shards": shards}, indent=1) + "\n")
    temporary.replace(path)
