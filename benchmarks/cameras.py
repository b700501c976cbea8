"""Glass-to-caption latency, from a camera's frame to its caption on a websocket, with CPU and memory.

    python -m benchmarks.cameras [--cameras 4] [--minutes 10] [--every 1] [--json benchmarks/results/cameras.json]

The cameras are a real RTSP server (GStreamer) that plays 720p H.264, encoded beforehand so that encoding takes no CPU
time. The service runs in its own process with the change gate off: one decode per camera and period. Latency is from
the camera's clock (RTCP), which is this machine's, to the arrival of the websocket message in this process. Where the
time goes is measured around the functions of each stage (`traced_service`), and by thread.
Goals: p50 ≤ 55 ms, p99 ≤ 110 ms, ≤ 0.20 cores, memory flat, on 2 cores.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks.results import RESULTS, percentiles, write_result
from benchmarks.running_service import ServiceAddress, read_feed, serving, streams
from streamcap.bench.machine import describe_machine
from testbed.rtsp.camera import Clip, RtspServer

GOAL_P50_MS = 55.0
GOAL_P99_MS = 110.0
GOAL_CORES = 0.20
GOAL_GROWTH_MB_PER_HOUR = 1.0
# Events and cues of each stream in memory.
KEPT = 100
# The first captions wait for keyframes, first sender reports and lazy initialization.
WARM_UP_SECONDS = 20.0
RANKS = (50, 90, 95, 99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=30, help="frames a second of each camera")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, help="of the model; as `streamcap serve` chooses unless given")
    parser.add_argument("--json", type=Path, default=RESULTS / "cameras.json")
    arguments = parser.parse_args()
    paths = tuple(f"cam{number}" for number in range(arguments.cameras))
    with RtspServer(Clip(seed=1, scenes=8, seconds=4.0, rate=arguments.rate), paths=paths) as server:
        result = asyncio.run(measure(server, paths, arguments))
    result["machine"] = describe_machine(torch.device("cpu"))
    show(result)
    write_result(arguments.json, result)


async def measure(server: RtspServer, paths: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    options = [
        *(f"{path}={server.url(path)}" for path in paths),
        "--every",
        str(arguments.every),
        "--change-threshold",
        "0",
    ]
    options += ["--interim-rate", "0", "--model", arguments.model, "--precision", arguments.precision]
    # What a stream keeps is bounded; small bounds are reached within minutes, and what grows on after that is a leak.
    options += ["--replay-events", str(KEPT), "--subtitle-window", str(KEPT * arguments.every)]
    if arguments.threads is not None:
        options += ["--threads", str(arguments.threads)]
    async with serving(options, traced=True) as service:
        return await _watch(service, server, arguments)


async def _watch(address: ServiceAddress, server: RtspServer, arguments: argparse.Namespace) -> dict[str, Any]:
    base, service = address.base, psutil.Process(address.pid)
    received: list[tuple[float, dict[str, Any]]] = []
    async with connect(base.replace("http", "ws", 1) + "/captions?interim=0") as socket:
        reading = asyncio.create_task(read_feed(socket, received))
        await asyncio.sleep(WARM_UP_SECONDS)
        warm_up = len(received)
        before = await asyncio.to_thread(streams, base)
        await address.trace()
        threads_before = _cpu_by_thread(service)
        cpu_before, began = service.cpu_times(), time.monotonic()
        memory = []
        for _ in range(max(2, round(arguments.minutes * 4))):
            memory.append((time.monotonic() - began, _uss(service)))
            await asyncio.sleep(15.0)
        seconds = time.monotonic() - began
        memory.append((seconds, _uss(service)))
        cpu_after, threads_after = service.cpu_times(), _cpu_by_thread(service)
        trace = await address.trace()
        after = await asyncio.to_thread(streams, base)
        reading.cancel()
    captions = [(at, m) for at, m in received[warm_up:] if m["type"] == "caption"]
    timed = [(at, m) for at, m in captions if m["captured_at_source"] == "rtcp"]
    latency = np.array([1000 * (at - datetime.fromisoformat(m["captured_at"]).timestamp()) for at, m in timed])
    inside = {part: np.array([m["latency_ms"][part] for _, m in timed]) for part in timed[0][1]["latency_ms"]}
    true = sum(m["text"] == server.sentence_at(datetime.fromisoformat(m["captured_at"]).timestamp()) for _, m in timed)
    inside["publish"] = inside["total"] - sum(inside[part] for part in ("ingest", "queue", "encode", "decode"))
    cpu = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    by_name: defaultdict[str, float] = defaultdict(float)
    for number, spent in threads_after.items():
        # Threads of OpenMP and libav are not Python's.
        name = re.sub(r"-cam.*|-\d+$", "", trace["threads"].get(str(number), "others"))
        by_name[name] += spent - threads_before.get(number, 0.0)
    return {
        "question": "glass to caption",
        "cameras": arguments.cameras,
        "every_s": arguments.every,
        "camera": {"size": "1280x720", "frames_per_second": arguments.rate, "codec": "h264"},
        "model": arguments.model,
        "seconds": round(seconds, 1),
        "warm_up_s": WARM_UP_SECONDS,
        "captions": len(captions),
        "captions_expected": round(seconds / arguments.every * arguments.cameras),
        "true_sentences": round(true / len(timed), 4),
        "latency_ms": percentiles(latency, RANKS),
        "latency_parts_ms": {part: percentiles(values, RANKS) for part, values in inside.items()},
        "stages_ms": {stage: percentiles(values, RANKS) for stage, values in trace["wall_ms"].items()},
        "stages_cpu": {
            stage: {"ms": round(float(np.median(values)), 2), "cores": round(sum(values) / 1000 / seconds, 4)}
            for stage, values in trace["cpu_ms"].items()
        },
        "goal_ms": {"p50": GOAL_P50_MS, "p99": GOAL_P99_MS},
        "counters": {
            name: {key: after[name][key] - before[name][key] for key in ("frames", "sampled", "captions")}
            for name in after
        },
        "cpu_cores": round(cpu / seconds, 3),
        "cpu_cores_by_thread": {
            name: round(spent / seconds, 4) for name, spent in sorted(by_name.items(), key=lambda one: -one[1])
        },
        "kept_of_a_stream": KEPT,
        "memory_mb": {"start": round(memory[0][1], 2), "end": round(memory[-1][1], 2)},
        "memory_growth_mb_per_hour": round(_slope_per_hour(memory), 2),
        "memory_samples_mb": [[round(at), round(mb, 2)] for at, mb in memory],
    }


def _cpu_by_thread(process: psutil.Process) -> dict[int, float]:
    """CPU seconds of each thread."""
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def _uss(process: psutil.Process) -> float:
    """Memory of the process alone, MB: what would be free if it ended."""
    return float(process.memory_full_info().uss) / 1e6


def _slope_per_hour(memory: list[tuple[float, float]]) -> float:
    """Least-squares slope over the second half, where caches and arenas have settled."""
    half = memory[len(memory) // 2 :]
    at, megabytes = np.array(half).T
    return float(np.polyfit(at, megabytes, 1)[0] * 3600) if len(half) > 2 else float("nan")


def show(result: dict[str, Any]) -> None:
    table = Table(
        title=f"{result['cameras']} cameras, 720p{result['camera']['frames_per_second']}, "
        f"a caption every {result['every_s']:g} s, {result['seconds'] / 60:.1f} min"
    )
    for column in ("what", "p50", "p90", "p99", "max", "goal"):
        table.add_column(column, justify="left" if column == "what" else "right")
    rows = {"capture to message, ms": result["latency_ms"]} | {
        f"  {part}": values for part, values in {**result["latency_parts_ms"], **result["stages_ms"]}.items()
    }
    for name, values in rows.items():
        goal = f"≤ {GOAL_P50_MS:g} / ≤ {GOAL_P99_MS:g}" if name.startswith("capture") else ""
        table.add_row(name, *(f"{values[q]:.1f}" for q in ("p50", "p90", "p99", "max")), goal)
    console = Console()
    console.print(table)
    for title, cores in (
        ("stage", {stage: one["cores"] for stage, one in result["stages_cpu"].items()}),
        ("thread", result["cpu_cores_by_thread"]),
    ):
        console.print(f"cores by {title}: " + ", ".join(f"{name} {spent:.3f}" for name, spent in cores.items()))
    console.print(
        f"captions {result['captions']} of {result['captions_expected']}, "
        f"{100 * result['true_sentences']:.1f} % the true sentence; {result['cpu_cores']:.2f} cores "
        f"(goal ≤ {GOAL_CORES:.2f}); "
        f"memory {result['memory_mb']['start']:.1f} → {result['memory_mb']['end']:.1f} MB, "
        f"{result['memory_growth_mb_per_hour']:+.2f} MB an hour (goal < {GOAL_GROWTH_MB_PER_HOUR:g})"
    )


if __name__ == "__main__":
    main()
