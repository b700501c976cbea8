"""Kills one of two gateways under many viewers, which go on at the other one with `since`.

Real nats-servers, a node that decodes, two gateways, and light websocket clients in one process. Each client is judged
against the logs by a reader that shares no code with streamcap: no stored final is missing, none comes twice.

    python -m benchmarks.cluster_failover --viewers 1000 --kills 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.results import RESULTS, percentiles, write_result
from testbed.cluster.judge import Verdict, judge_client, judge_log, read_logs
from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster

STREAMS = 4
CALM_SECONDS = 10.0


class Viewer:
    """Reads one stream from one gateway after another, and always resumes."""

    def __init__(self, stream: str, ports: list[int], rng: random.Random) -> None:
        self.stream = stream
        self.messages: list[dict[str, Any]] = []
        self.last = 0
        self.connections = 0
        self.away: list[float] = []
        """Seconds from a lost connection to the next `hello`."""
        self._ports = ports
        self._rng = rng

    async def run(self) -> None:
        lost_at: float | None = None
        while True:
            since = f"&since={self.last}" if self.last else ""
            url = f"ws://127.0.0.1:{self._rng.choice(self._ports)}/captions?stream={self.stream}&interim=0{since}"
            with contextlib.suppress(OSError, WebSocketException):
                async with connect(url, open_timeout=60, ping_interval=None, compression=None) as socket:
                    async for text in socket:
                        message = json.loads(text)
                        if message["type"] == "hello":
                            self.connections += 1
                            if lost_at is not None:
                                self.away.append(time.monotonic() - lost_at)
                                lost_at = None
                        self.messages.append(message)
                        gap = message["to"] if message["type"] == "gap" else None
                        self.last = message.get("seq") or gap or self.last
            if lost_at is None:
                lost_at = time.monotonic()
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))


async def watch(viewers: list[Viewer], gateways: list[NodeProcess], kills: int) -> int:
    """Run the viewers, and kill the gateways in turn. Returns how many connections the kills closed."""
    tasks = [asyncio.create_task(viewer.run()) for viewer in viewers]
    while not all(viewer.last for viewer in viewers):  # noqa: ASYNC110 - a thousand conditions
        await asyncio.sleep(0.2)
    closed = 0
    for number in range(kills):
        await asyncio.sleep(CALM_SECONDS)
        gateway = gateways[number % len(gateways)]
        before = sum(viewer.connections for viewer in viewers)
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)
        await asyncio.to_thread(gateway.wait_until_ready)
        await asyncio.sleep(CALM_SECONDS)
        closed += sum(viewer.connections for viewer in viewers) - before
    goal = {viewer.stream: max(v.last for v in viewers if v.stream == viewer.stream) for viewer in viewers}
    while not all(viewer.last >= goal[viewer.stream] for viewer in viewers):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return closed


def run(viewers: int, kills: int, directory: Path) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(NatsCluster(directory, 3))
        names = [f"cam{number}" for number in range(STREAMS)]
        sources = [f"{name}={SCENE}" for name in names]
        stack.enter_context(NodeProcess("ingest", cluster.urls, directory, "--roles", "ingest,engine", *sources))
        gateways = [
            stack.enter_context(NodeProcess(f"gateway{number}", cluster.urls, directory, "--roles", "gateway"))
            for number in range(2)
        ]
        ports = [gateway.port for gateway in gateways]
        clients = [Viewer(names[number % STREAMS], ports, random.Random(number)) for number in range(viewers)]
        closed = asyncio.run(watch(clients, gateways, kills))
        stored = asyncio.run(read_logs(cluster.urls))
    verdict = Verdict()
    for name in names:
        judge_log(stored, name, verdict)
    for client in clients:
        judge_client(client.messages, stored, client.stream, verdict)
    away = [seconds for client in clients for seconds in client.away]
    return {
        "viewers": viewers,
        "gateways_killed": kills,
        "connections_resumed": closed,
        "finals_stored": verdict.finals,
        "finals_received": verdict.received,
        "violations": verdict.violations[:20],
        "away_s": percentiles(away, (50, 95)),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS / "cluster_failover.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(options.viewers, options.kills, Path(directory))
    write_result(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
