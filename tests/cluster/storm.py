"""Kills and pauses nodes and NATS servers at random moments, and judges logs and clients.

python -m tests.cluster.storm --kills 200    prints a table; its exit status is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from testbed.nats import NatsCluster
from tests.cluster.judge import Stored, Verdict, judge_client, judge_log, read_logs
from tests.cluster.nodes import SCENE, NodeProcess
from tests.end_to_end.service import wait_until

KINDS = ("node", "nats", "pause")
# Of ten strikes.
WEIGHTS = (6, 2, 2)
PAUSE_SECONDS = 8.0
"""Longer than the time after which JetStream gives a stream to another node."""


class Client:
    """Reads one stream on a thread, from one gateway after another, and always resumes."""

    def __init__(self, stream: str, nodes: list[NodeProcess], rng: random.Random) -> None:
        self.stream = stream
        self.messages: list[dict[str, Any]] = []
        self.last = 0
        self._nodes = nodes
        self._rng = rng
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(20)

    def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(OSError, WebSocketException):
                self._read(self._rng.choice(self._nodes).port)
            time.sleep(0.1)

    def _read(self, port: int) -> None:
        since = f"&since={self.last}" if self.last else ""
        url = f"ws://127.0.0.1:{port}/captions?stream={self.stream}{since}"
        with connect(url, open_timeout=5, close_timeout=0.1) as socket:
            quiet = 0
            while not self._stopping and quiet < 30:  # a paused gateway says nothing
                try:
                    message = json.loads(socket.recv(timeout=0.5))
                except TimeoutError:
                    quiet += 1
                    continue
                quiet = 0
                self.messages.append(message)
                self.last = message.get("seq") or (message["to"] if message["type"] == "gap" else None) or self.last


@dataclass
class Outcome:
    verdict: Verdict = field(default_factory=Verdict)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the kill of an owner to the next stored final of each of its streams."""
    nats_pauses: list[float] = field(default_factory=list)
    """The longest time without any stored message after the kill of a NATS server."""
    strikes: dict[str, int] = field(default_factory=dict)


def run_storm(
    kills: int, directory: Path, *, nodes: int = 3, streams: int = 4, servers: int = 3, seed: int = 0, calm: float = 8.0
) -> Outcome:
    """`kills` strikes, `calm` seconds apart, then a judgement."""
    rng = random.Random(seed)
    outcome = Outcome()
    marks: list[tuple[str, str, float]] = []
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(NatsCluster(directory, servers))
        processes = [NodeProcess(f"n{number}", cluster.urls, directory) for number in range(nodes)]
        for process in processes:
            stack.callback(process.kill)
            process.start()
        for process in processes:
            process.wait_until_ready()
        names = [f"cam{number}" for number in range(streams)]
        for name in names:
            status, text = processes[0].request("POST", "/streams", {"name": name, "url": SCENE})
            assert status == 201, text
        wait_until(lambda: all(processes[0].captions(name) for name in names), processes[0].describe)
        clients = [Client(name, processes, random.Random(f"{seed}{name}{i}")) for name in names for i in range(2)]
        for client in clients:
            client.start()
        for _ in range(kills):
            time.sleep(rng.uniform(0.3, 1.0) * calm)
            kind = rng.choices(KINDS, WEIGHTS)[0]
            outcome.strikes[kind] = outcome.strikes.get(kind, 0) + 1
            if kind == "nats":
                server = rng.choice(cluster.servers)
                marks.append(("nats", server.url, time.time()))
                server.kill()
                time.sleep(rng.uniform(2.0, 8.0))
                server.start()
            elif kind == "node":
                process = rng.choice(processes)
                marks.append(("node", process.name, time.time()))
                process.kill()
                process.start()
                process.wait_until_ready()
            else:
                process = rng.choice(processes)
                process.signal(signal.SIGSTOP)
                time.sleep(PAUSE_SECONDS)
                process.signal(signal.SIGCONT)
        time.sleep(calm)
        goal = {name: max(client.last for client in clients if client.stream == name) + 5 for name in names}
        wait_until(lambda: all(client.last >= goal[client.stream] for client in clients), processes[0].describe)
        for client in clients:
            client.stop()
        stored = asyncio.run(read_logs(cluster.urls))
    for name in names:
        judge_log(stored, name, outcome.verdict)
    for client in clients:
        judge_client(client.messages, stored, client.stream, outcome.verdict)
    _measure(marks, stored, outcome)
    return outcome


def _measure(marks: list[tuple[str, str, float]], stored: list[Stored], outcome: Outcome) -> None:
    for kind, what, at in marks:
        if kind == "nats":
            times = [at, *(entry.at for entry in stored if at <= entry.at <= at + 15)]
            outcome.nats_pauses.append(max((b - a for a, b in itertools.pairwise(times)), default=15.0))
            continue
        for stream in {entry.stream for entry in stored}:
            before = [entry for entry in stored if entry.stream == stream and entry.at <= at]
            if not before or before[-1].node.rpartition("-")[0] != what:
                continue
            finals = (
                entry.at
                for entry in stored
                if entry.stream == stream and entry.at > at and any(e.get("is_final") for e in entry.events)
            )
            outcome.recoveries.append(next(finals, at + 999) - at)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome = run_storm(
            options.kills, Path(directory), nodes=options.nodes, streams=options.streams, seed=options.seed
        )
    verdict = outcome.verdict
    lines = [
        f"strikes: {outcome.strikes}",
        f"finals stored: {verdict.finals}; received by clients: {verdict.received}; gaps: {verdict.gaps}",
        f"owner killed to next final: n={len(outcome.recoveries)} p50 {percentile(outcome.recoveries, 0.5):.2f} s, "
        f"p95 {percentile(outcome.recoveries, 0.95):.2f} s, worst {max(outcome.recoveries, default=0):.2f} s",
        f"NATS server killed: longest pause of all logs {max(outcome.nats_pauses, default=0):.2f} s",
        f"violations: {len(verdict.violations)}",
        *(f"    {violation}" for violation in verdict.violations[:20]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(verdict.violations))


if __name__ == "__main__":
    main()
