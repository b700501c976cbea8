"""What viewers and operators get when there are far more cameras than the machine can caption.

    python -m benchmarks.overload [--cameras 64] [--seconds 60] [--json benchmarks/results/overload.json]

The cameras are one light RTSP server that sends each of them the same 720p30 H.264; it runs on the same cores.
The service runs in its own process with its defaults. After `--settle` seconds, for `--seconds`: the delay of each
final caption from the camera's clock (RTCP) to its websocket message, the age of the newest caption of each stream, the
time that `/metrics` takes, what `/readyz` and the log say, and how often a camera was blamed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from websockets.asyncio.client import connect

from benchmarks.results import RESULTS, percentiles, write_result
from benchmarks.running_service import ServiceAddress, read_feed, serving
from streamcap.bench.machine import describe_machine
from testbed.rtsp.camera import Clip
from testbed.rtsp.many_cameras import ManyCameras

GOAL_METRICS_MS = 100.0
GOAL_AGE_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=64)
    parser.add_argument("--settle", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=30, help="frames a second of each camera")
    parser.add_argument("--json", type=Path, default=RESULTS / "overload.json")
    parser.add_argument("options", nargs="*", help="further options of streamcap serve, after --")
    arguments = parser.parse_args()
    paths = tuple(f"cam{number}" for number in range(arguments.cameras))
    with ManyCameras(Clip(seed=1, scenes=8, seconds=4.0, rate=arguments.rate)) as server:
        result = asyncio.run(measure([f"{path}={server.url(path)}" for path in paths], arguments))
    result["machine"] = describe_machine(torch.device("cpu"))
    print(json.dumps(result, indent=1))
    write_result(arguments.json, result)


async def measure(sources: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    async with serving([*sources, *arguments.options]) as service:
        return await _watch(service, arguments)


async def _watch(service: ServiceAddress, arguments: argparse.Namespace) -> dict[str, Any]:
    received: list[tuple[float, dict[str, Any]]] = []
    process = psutil.Process(service.pid)
    async with connect(service.feed + "?interim=0") as socket, httpx.AsyncClient(timeout=30) as client:
        reading = asyncio.create_task(read_feed(socket, received))
        await asyncio.sleep(arguments.settle)
        settled, began, cpu = len(received), time.monotonic(), sum(process.cpu_times()[:2])
        others = psutil.cpu_times()
        scrapes, ages, stretches = [], [], []
        while time.monotonic() < began + arguments.seconds:
            at = time.perf_counter()
            text = (await client.get(f"{service.base}/metrics")).text
            scrapes.append(1000 * (time.perf_counter() - at))
            ages += _values(text, "streamcap_caption_age_seconds")
            stretches += _values(text, "streamcap_interval_stretch")
            await asyncio.sleep(1.0)
        seconds = time.monotonic() - began
        cpu = sum(process.cpu_times()[:2]) - cpu
        idle = psutil.cpu_times().idle - others.idle
        ready = (await client.get(f"{service.base}/readyz")).text.strip()
        streams = (await client.get(f"{service.base}/streams")).json()
        reading.cancel()
    states = Counter(m["state"] for _, m in received if m["type"] == "status")
    reasons = Counter(m.get("reason", "") for _, m in received[settled:] if m["type"] == "status")
    finals = [(at, m) for at, m in received[settled:] if m["type"] == "caption"]
    timed = [at - datetime.fromisoformat(m["captured_at"]).timestamp() for at, m in finals
             if m["captured_at_source"] == "rtcp"]  # fmt: skip
    return {
        "question": "overload",
        "cameras": arguments.cameras,
        "camera": {"size": "1280x720", "frames_per_second": arguments.rate, "codec": "h264"},
        "options": arguments.options,
        "seconds": round(seconds, 1),
        "cpu_cores": {"service": round(cpu / seconds, 2), "idle": round(idle / seconds, 2)},
        "caption_delay_s": percentiles(timed),
        "latency_parts_ms": {
            part: percentiles([m["latency_ms"][part] for _, m in finals])
            for part in ("ingest", "queue", "encode", "decode", "total")
        },
        "caption_age_s": percentiles(ages),
        "captions_per_stream_and_minute": round(60 * len(finals) / seconds / arguments.cameras, 2),
        "metrics_ms": percentiles(scrapes),
        "goals": {"metrics_ms": GOAL_METRICS_MS, "caption_age_s": GOAL_AGE_S},
        "interval_stretch": max(stretches),
        "effective_every_s": streams[0]["effective_every"],
        "readyz": ready,
        "warnings": [line.strip()[20:] for line in service.log if "WARNING" in line],
        "states": dict(states),
        "frames": {key: sum(s["source"][key] for s in streams) for key in ("frames", "skipped")},
        "skips_ahead": sum(s["skips_ahead"] for s in streams),
        "states_at_end": dict(Counter(stream["state"] for stream in streams)),
        "reasons": dict(reasons),
    }


def _values(metrics: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)]


if __name__ == "__main__":
    main()
