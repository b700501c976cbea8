"""`python -m tests.cluster.engine_load`: cameras, engines and a real nats-server; what happens to latency and fairness.

Each engine is a process of its own; the model is the fake one, slowed down per row. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streamcap.cluster.engines.model_directory import ModelDirectory
from streamcap.cluster.engines.remote_engine import RemoteEngine
from streamcap.cluster.jetstream.connection import ClusterOptions, connect
from streamcap.cluster.tasks import end_tasks
from streamcap.engine.outcome import Interim, Outcome
from streamcap.media.frame import Pixels, Sample
from testbed.nats import NatsCluster
from testbed.ports import free_port

PICTURES = [
    np.kron(np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    for number in range(32)
]


@dataclass
class Cameras:
    """The streams of one ingest node, each with another picture every `every` seconds."""

    names: list[str]
    every: float
    captions: list[tuple[float, float, str]] = field(default_factory=list)
    """Monotonic time, age of the frame, stream."""
    most: int = 0
    """The most samples that waited or were at an engine."""

    def deliver(self, outcomes: list[Outcome]) -> None:
        now = time.monotonic()
        for outcome in outcomes:
            if not isinstance(outcome, Interim):
                self.captions.append((now, now - outcome.sample.arrived, outcome.sample.stream))

    async def run(self, remote: RemoteEngine, seconds: float) -> None:
        rng = np.random.default_rng(len(self.names))
        begin = time.monotonic()
        due = {name: begin + float(rng.random()) * self.every for name in self.names}
        while (now := time.monotonic()) < begin + seconds:
            for number, (name, at) in enumerate(due.items()):
                if at <= now:
                    due[name] = at + self.every
                    picture = PICTURES[(number + int((at - begin) / self.every)) % len(PICTURES)]
                    remote.submit(_sample(name, picture, at - begin))
            self.most = max(self.most, remote.dispatcher.waiting + remote.dispatcher.in_flight)
            await asyncio.sleep(0.01)


def _sample(stream: str, pixels: Pixels, start: float) -> Sample:
    now = time.monotonic()
    return Sample(stream, pixels, 0, start, time.time(), "arrival", now, now, "mini")


@contextlib.contextmanager
def engines(nats: NatsCluster, count: int, row_seconds: float) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Engine processes."""
    processes = []
    try:
        for number in range(count):
            command = [
                *(sys.executable, "-m", "testbed.fake_model", "node", "--roles", "engine"),
                *("--name", f"engine{number}", "--port", str(free_port()), "--nats", nats.urls[0]),
            ]
            environment = {**os.environ, "STREAMCAP_FAKE_ROW_SECONDS": str(row_seconds)}
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def jain(counts: list[int]) -> float:
    """Jain's index of fairness: 1 if all are equal."""
    values = np.array(counts, float)
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


async def measure(
    streams: list[int], every: float, seconds: float, *, engine_count: int, row_seconds: float, kill_at: float | None
) -> dict[str, Any]:
    """One ingest node for each of `streams`, with so many streams. kill_at: when an engine dies by `kill -9`."""
    with tempfile.TemporaryDirectory() as folder, NatsCluster(Path(folder)) as nats:
        connections = [await connect(ClusterOptions(tuple(nats.urls)), f"node{n}") for n in range(len(streams))]
        tasks, nodes, all_cameras = [], [], []
        for number, (connection, count) in enumerate(zip(connections, streams, strict=True)):
            cameras = Cameras([f"cam{number}-{camera}" for camera in range(count)], every)
            models = ModelDirectory(connection)
            remote = RemoteEngine(connection, f"node{number}", models, "mini", cameras.deliver)
            tasks += [asyncio.create_task(models.run()), asyncio.create_task(remote.run())]
            nodes.append(remote)
            all_cameras.append(cameras)
        with engines(nats, engine_count, row_seconds) as processes:
            while any(len(node.dispatcher.engines) < engine_count for node in nodes):
                await asyncio.sleep(0.05)
            await asyncio.gather(*(c.run(n, 3 * every) for c, n in zip(all_cameras, nodes, strict=True)))  # warm up
            for cameras in all_cameras:
                cameras.captions.clear()
                cameras.most = 0
            begin = time.monotonic()
            if kill_at is not None:
                asyncio.get_running_loop().call_later(kill_at, processes[0].kill)
            await asyncio.gather(*(c.run(n, seconds) for c, n in zip(all_cameras, nodes, strict=True)))
        await end_tasks(tasks)
        for connection in connections:
            await connection.close()
    captions = [caption for cameras in all_cameras for caption in cameras.captions]
    ages = np.array([age for _, age, _ in captions])
    counts = Counter(stream for _, _, stream in captions)
    result = {
        "streams": streams,
        "captions_per_second": round(len(captions) / seconds, 1),
        "wanted_per_second": round(sum(streams) / every, 1),
        "jain": round(jain([counts[name] for cameras in all_cameras for name in cameras.names]), 4),
        "p50_s": round(float(np.percentile(ages, 50)), 3),
        "p99_s": round(float(np.percentile(ages, 99)), 3),
        "worst_s": round(float(ages.max()), 3),
        "most_samples": [cameras.most for cameras in all_cameras],
        "resent": sum(node.dispatcher.resent for node in nodes),
    }
    if kill_at is not None:
        during = np.array([age for at, age, _ in captions if kill_at - 0.5 <= at - begin <= kill_at + 4])
        times = sorted(at for at, _, _ in captions)
        result |= {
            "p99_during_kill_s": round(float(np.percentile(during, 99)), 3),
            "worst_during_kill_s": round(float(during.max()), 3),
            "longest_pause_s": round(float(np.diff(times).max()), 3),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[40, 20], help="of each ingest node")
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--row-seconds", type=float, default=0.02)
    parser.add_argument("--kill-at", type=float)
    given = parser.parse_args()
    work = measure(
        given.streams,
        given.every,
        given.seconds,
        engine_count=given.engines,
        row_seconds=given.row_seconds,
        kill_at=given.kill_at,
    )
    sys.stdout.write(json.dumps(asyncio.run(work)) + "\n")


if __name__ == "__main__":
    main()
