"""All GPU figures in one run of under 8 minutes, the most important first; ends with a table of the goals, and JSON.

    python -m benchmarks.gpu

Needs torch with CUDA, transformers and numpy. Each part (see `gpu_parts`) runs in a process of its own with a time
limit: one that fails, crashes or hangs is reported with the reason, and the rest is measured. The JSON is written after
each part. Goals: one frame, encode and decode, at most 4.5 ms, with a right draft 1.5, the first token within 2; 256
frames at least half of the binding floor; 1,000 streams with a caption a second through the engine, p99 at most 100 ms.

    python -m benchmarks.gpu --device cpu --quick

tries every part in seconds, with small models.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.gpu_sizes import LIMITS, QUICK, Sizes
from benchmarks.results import RESULTS, write_result

BUDGET_SECONDS = 460.0
"""For all parts; those that do not fit are left out."""
OURS = "streamcap fp16"
CONTEXT = "forkserver"
"""How processes start: from a server that has imported the parts, and has nothing on the GPU."""


def run(name: str, device: str, sizes: Sizes) -> dict[str, Any]:
    """`gpu_parts.run`; only the processes of the parts import torch."""
    from benchmarks import gpu_parts

    return gpu_parts.run(name, device, sizes)


def _child(connection: Connection, name: str, device: str, sizes: Sizes) -> None:
    try:
        connection.send(run(name, device, sizes))
    except Exception as error:  # noqa: BLE001 - a failed part must not end the run
        traceback.print_exc()
        connection.send({"failed": f"{type(error).__name__}: {error}"})


def measure(name: str, device: str, sizes: Sizes, seconds: float) -> dict[str, Any]:
    """One part in its own process, for at most `seconds`; `failed` holds the reason if it gave no result."""
    context: Any = multiprocessing.get_context(CONTEXT)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, name, device, sizes), daemon=True)
    process.start()
    sender.close()
    result: dict[str, Any] = {"failed": f"longer than {seconds:.0f} s"}
    try:
        if receiver.poll(seconds):
            result = receiver.recv()
            process.join(5)
    except EOFError:
        process.join(10)
        result = {"failed": f"its process ended with status {process.exitcode}"}
    process.kill()
    process.join()
    return result


def binding_floor(parts: dict[str, Any]) -> dict[str, Any]:
    """Each batch size compared with its binding floor: reading weights and cache, or arithmetic."""
    try:
        rows = {row["frames"]: row["median_ms"] for row in parts["decode"]["rows"] if row["contender"] == OURS}
        floors = {name: parts[name]["floor_ms"] for name in ("bandwidth", "arithmetic")}
    except KeyError as missing:
        return {"failed": f"{missing.args[0]} was not measured"}
    result = {}
    for frames, median in rows.items():
        binding = max(floors, key=lambda name: floors[name][str(frames)])
        floor = floors[binding][str(frames)]
        result[str(frames)] = {
            "binding": binding,
            "floor_ms": floor,
            "median_ms": median,
            "share_of_floor": round(floor / median, 3),
            "captions_per_second": round(1000 * frames / median, 1),
        }
    return result


def summary(parts: dict[str, Any], floors: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was measured, and the reason where nothing was; `met` is None then."""
    drafted = {name: each for name, each in parts.get("drafts", {}).items() if isinstance(each, dict)}
    rows: list[tuple[str, str, Callable[[dict[str, Any]], Any], Callable[[Any], bool]]] = [
        ("tokens as transformers", "same tokens", lambda part: part["same_as_transformers"], bool),
        ("one frame, ms to the last token: at most 4.5", "one frame", lambda p: p["last_token_ms"], lambda x: x <= 4.5),
        ("one frame, right draft, ms: at most 1.5", "drafts", lambda p: p["right"]["median_ms"], lambda x: x <= 1.5),
        ("tokens with drafts as without", "drafts", lambda _: all(e["same_tokens"] for e in drafted.values()), bool),
        ("one frame, ms to the first token: at most 2", "one frame", lambda p: p["first_token_ms"], lambda x: x <= 2.0),
        ("one frame, × its floor: at most 2", "one frame", lambda p: p["to_floor"], lambda x: x <= 2.0),
        ("fused decode pass used", "fused", lambda p: p["used"], bool),
        ("fused, one frame, × torch's kernels: below 1", "fused", lambda p: p["rows"][0]["ratio"], lambda x: x < 1.0),
        ("many frames, of the floor: at least 0.5", "decode", lambda _: _last(floors), lambda x: x >= 0.5),
        (
            "engine, a caption a second a stream, p99 ms: at most 100",
            "engine",
            lambda p: p["p99_ms"],
            lambda x: x <= 100,
        ),
        ("engine, samples that a newer one replaced: 0", "engine", lambda p: p["superseded"], lambda x: x == 0),
        (
            "continuous batching, p95 ms, × whole batches at the lowest load",
            "continuous",
            _continuous,
            lambda x: x <= 1.0,
        ),
        ("video on the GPU, CPU a frame, × software: below 1", "video", _video, lambda x: x < 1.0),
        ("CUDA graphs recorded", "one frame", lambda p: p["graphs"], bool),
    ]
    table = []
    for goal, name, find, met in rows:
        part = parts.get(name, {"left_out": "not run"})
        reason = part.get("failed") or part.get("left_out")
        value = None
        if reason is None:
            try:
                value = find(part)
            except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:
                reason = part.get("reason") or f"{type(error).__name__}: {error}"
        table.append({"goal": goal, "measured": value, "met": None if value is None else met(value), "reason": reason})
    return table


def _last(floors: dict[str, Any]) -> Any:
    if "failed" in floors:
        raise KeyError(floors["failed"])
    return floors[max(floors, key=int)]["share_of_floor"]


def _continuous(part: dict[str, Any]) -> float:
    p95 = {row["policy"]: row["p95_ms"] for row in part["loads"][0]["rows"]}
    return float(round(p95["continuous batching"] / p95["whole batches"], 3))


def _video(part: dict[str, Any]) -> float:
    if "failed" in part["cuda"]:
        raise KeyError(part["cuda"]["failed"])
    return float(round(part["cuda"]["cpu_ms_per_frame"] / part["software"]["cpu_ms_per_frame"], 3))


def show(rows: list[dict[str, Any]]) -> None:
    print("\n| goal | measured | met |\n| --- | --- | --- |")
    for row in rows:
        measured = f"not measured: {row['reason']}" if row["measured"] is None else row["measured"]
        print(f"| {row['goal']} | {measured} | {'-' if row['met'] is None else 'yes' if row['met'] else '**no**'} |")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the content of the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small models, few rounds: whether every part runs")
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS), help="only these")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the random models have no tokenizer; do not look for one
    multiprocessing.set_forkserver_preload(["benchmarks.gpu_parts"])
    began = time.monotonic()
    content: dict[str, Any] = {
        "machine": measure("machine", options.device, sizes, 60 * sizes.time_factor),
        "quick": options.quick,
    }
    parts: dict[str, Any] = {}
    for name in options.parts:
        left = sizes.time_factor * BUDGET_SECONDS - (time.monotonic() - began)
        print(f"== {name}", flush=True)
        started = time.monotonic()
        limit = min(sizes.time_factor * LIMITS[name], left)
        part = measure(name, options.device, sizes, limit) if left > 5 else {"left_out": "out of time"}
        parts[name] = part | {"seconds": round(time.monotonic() - started, 1)}
        if reason := part.get("failed") or part.get("left_out"):
            print(f"{name}: {reason}")
        floors = binding_floor(parts)
        content |= {"parts": parts, "seconds": round(time.monotonic() - began, 1), "binding_floor": floors}
        content["summary"] = summary(parts, floors)
        write_result(options.out / f"gpu{'-quick' if options.quick else ''}.json", content)
    for frames, row in content["binding_floor"].items():
        if isinstance(row, dict):
            print(
                f"{frames} frames: {row['median_ms']:.2f} ms, {row['share_of_floor']:.2f} of the {row['binding']} floor"
            )
    show(content["summary"])
    return content


if __name__ == "__main__":
    main()
