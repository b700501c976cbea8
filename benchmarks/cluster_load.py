"""Many simulated owners write finals to three real nats-servers; a real gateway sends them to viewers.

Each owner uses the real `LogWriter`: claim, fencing, reservation. The streams are in the registry, so that the gateway
has an event log for each. CPU is user and system time of all processes: owners and viewers (one process), NATS,
gateway. Latency is from the write to the viewer's read, on one monotonic clock.

    python -m benchmarks.cluster_load --owners 10000 --finals 3000 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop
import websockets

from benchmarks.results import RESULTS, percentiles, write_result
from streamcap.captions.caption import Caption, Latency
from streamcap.captions.event import encode
from streamcap.cli import GC_THRESHOLDS
from streamcap.cluster.assignment.registry import StreamConfig
from streamcap.cluster.jetstream.connection import ClusterOptions, Connection, connect
from streamcap.cluster.jetstream.subjects import STREAMS_BUCKET
from streamcap.cluster.log.writer import LogWriter
from streamcap.streams.counters import Counters
from streamcap.streams.settings import StreamSettings
from testbed.cluster.nodes import NodeProcess
from testbed.nats import NatsCluster

LATENCY = Latency(ingest=3.1, queue=0.4, encode=2.2, decode=4.0, total=9.7)
AT_ONCE = 128
"""Claims in flight."""


class Owner:
    """One stream's owner."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self._log = LogWriter(connection, name, "bench-0", lambda name: None)
        self.is_writing = False
        self._counters = Counters()
        self._number = 0

    async def open(self) -> None:
        self._counters = (await self._log.open(60, Counters())).counters

    async def store(self) -> None:
        """One final, whose text is the time of the write. One at a time."""
        self.is_writing = True
        self._number += 1
        begin = self._counters.time + 1.0
        caption = Caption(
            stream=self.name, epoch=0, id=f"{self.name}-{self._number}", revision=1, is_final=True, start=begin,
            end=begin + 1, text=f"{time.monotonic():.6f}", logprob=-0.4, confidence=0.8, captured_at=time.time(),
            captured_at_source="arrival", latency=LATENCY, model="mini",
        )  # fmt: skip
        event = encode(self._counters.seq, caption)
        self._counters = self._counters.after(caption)
        await self._log.append([event], self._counters)
        self.is_writing = False


@dataclass
class Seen:
    latencies: list[float] = field(default_factory=list)
    finals: int = 0


async def register(connection: Connection, names: list[str]) -> None:
    """Put the streams into the bucket, as streams that belong to a node which does not run."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def put(name: str) -> None:
        config = StreamConfig(name, "whip:", StreamSettings(), "default", node="bench-0")
        async with limit:
            await connection.jetstream.publish(f"$KV.{STREAMS_BUCKET}.{name}", config.as_json(), timeout=30)

    await asyncio.gather(*map(put, names))


async def watch(port: int, stream: str, seen: Seen, ready: asyncio.Event) -> None:
    """One viewer of one stream."""
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/captions?stream={stream}&interim=0", open_timeout=120
    ) as socket:
        ready.set()
        async for text in socket:
            now = time.monotonic()
            message = json.loads(text)
            if message["type"] == "caption":
                seen.finals += 1
                seen.latencies.append(now - float(message["text"]))


async def write(owners: list[Owner], rate: float, seconds: float) -> tuple[int, int, float]:
    """Owners in turn, `rate` finals a second. Returns finals stored, finals not begun since too many wait, seconds."""
    running: set[asyncio.Task[None]] = set()
    begin, begun, number, turn = time.monotonic(), 0, 0, 0
    while (now := time.monotonic()) < begin + seconds:
        due = int((now - begin) * rate)
        for _ in range(min(due - number, AT_ONCE * 4 - len(running))):
            owner = owners[turn % len(owners)]
            turn += 1
            if not owner.is_writing:
                task = asyncio.create_task(owner.store())
                running.add(task)
                task.add_done_callback(running.discard)
                begun += 1
        number = due
        await asyncio.sleep(0.005)
    if running:
        await asyncio.wait(running)
    return begun, number - begun, time.monotonic() - begin


async def run(
    options: argparse.Namespace, cluster: NatsCluster, gateway: NodeProcess, pids: list[int]
) -> dict[str, Any]:
    connection = await connect(ClusterOptions(tuple(cluster.urls)), "bench")
    names = [f"cam{number}" for number in range(options.owners)]
    began = time.monotonic()
    await register(connection, names)
    registered = time.monotonic() - began
    owners, limit = [Owner(connection, name) for name in names], asyncio.Semaphore(AT_ONCE)

    async def claim(owner: Owner) -> None:
        async with limit:
            await owner.open()

    began = time.monotonic()
    await asyncio.gather(*map(claim, owners))
    claimed = time.monotonic() - began
    await asyncio.to_thread(gateway.start)
    await asyncio.to_thread(gateway.wait_until_ready)
    pids.append(gateway.pid)
    seen = Seen()
    watched = random.Random(0).sample(names, min(options.viewers, len(names)))
    readies = [asyncio.Event() for _ in watched]
    viewers = [
        asyncio.create_task(watch(gateway.port, name, seen, ready))
        for name, ready in zip(watched, readies, strict=True)
    ]
    await asyncio.gather(*(ready.wait() for ready in readies))
    gc.freeze()  # as nodes do
    processes = {"owners and viewers": psutil.Process(), "gateway": psutil.Process(pids[-1])}
    processes |= {f"nats {number}": psutil.Process(pid) for number, pid in enumerate(pids[:-1])}
    cpu = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    memory = {name: process.memory_info().rss for name, process in processes.items()}
    # For a profiler.
    print(f"writing: owners are process {os.getpid()}, the gateway is {pids[-1]}", file=sys.stderr, flush=True)
    stored, skipped, seconds = await write(owners, options.finals, options.seconds)
    await asyncio.sleep(1.0)
    used = {name: sum(process.cpu_times()[:2]) - cpu[name] for name, process in processes.items()}
    growth = {name: process.memory_info().rss - memory[name] for name, process in processes.items()}
    for viewer in viewers:
        viewer.cancel()
    await asyncio.wait(viewers)
    await connection.close()
    return {
        "owners": options.owners,
        "finals_per_s_wanted": options.finals,
        "finals_per_s_stored": round(stored / seconds, 1),
        "finals_stored": stored,
        "finals_not_begun": skipped,
        "seconds": round(seconds, 1),
        "viewers": len(watched),
        "finals_received": seen.finals,
        "latency_ms": percentiles((1000 * seconds for seconds in seen.latencies), digits=1),
        "cpu_us_per_final": {
            **{name: round(1e6 * value / stored, 1) for name, value in used.items()},
            "all": round(1e6 * sum(used.values()) / stored, 1),
        },
        "memory_growth_mb": {name: round(value / 1e6, 1) for name, value in growth.items()},
        "memory_mb": {name: round((memory[name] + growth[name]) / 1e6, 1) for name in memory},
        "registered_in_s": round(registered, 1),
        "claimed_in_s": round(claimed, 1),
        "load_average": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--owners", type=int, default=10_000)
    parser.add_argument("--finals", type=float, default=3000, help="finals a second, all owners together")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--json", type=Path, default=RESULTS / "cluster_load.json")
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLDS)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        cluster = stack.enter_context(NatsCluster(Path(directory), 3))
        gateway = NodeProcess("gateway", cluster.urls, Path(directory), "--roles", "gateway")
        stack.callback(gateway.kill)
        pids = [server.pid for server in cluster.servers]
        result = uvloop.run(run(options, cluster, gateway, pids))  # as nodes do
    write_result(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
