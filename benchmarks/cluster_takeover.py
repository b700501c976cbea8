"""Kills the owner of streams with `kill -9`, and measures each step until the next owner's first final.

Three nodes with all roles, three real nats-servers. The killed node starts again at once, as a supervisor would start
it. Ways: `alone`; `nats`: a NATS server is killed at the same moment, and starts after 5 s; `next`: the node that takes
a stream over is killed as soon as its claim is in the log. All times are those of the log's messages.

    python -m benchmarks.cluster_takeover --kills 30 --ways alone,nats,next
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from benchmarks.results import RESULTS, write_result
from testbed.cluster.judge import Stored, Verdict, judge_log, owners, percentile, read_logs
from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster
from testbed.service import wait_until

WAYS = ("alone", "nats", "next")
NODES, STREAMS = 3, 4
CALM_SECONDS = 8.0
"""From the return of the killed node to the next kill: meanwhile the nodes balance their streams."""
NATS_AWAY_SECONDS = 5.0
STEPS = ("claim", "live", "final")


@dataclass(frozen=True)
class Kill:
    way: str
    node: str
    at: float
    """Of the newest kill: that of the second owner with `next`."""
    streams: tuple[str, ...]


def read(cluster: NatsCluster) -> list[Stored]:
    """The logs, once they can be read."""
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            return asyncio.run(read_logs(cluster.urls))
        assert time.monotonic() < end, "the logs cannot be read"


def terms(stored: list[Stored]) -> dict[str, int]:
    return {entry.stream: entry.term for entry in stored}


def strike(way: str, nodes: dict[str, NodeProcess], cluster: NatsCluster, rng: random.Random) -> Kill:
    """Kill one owner in this way."""
    before = read(cluster)
    running = owners(before)
    node = rng.choice(sorted(set(running.values())))
    streams = tuple(stream for stream, owner in running.items() if owner == node)
    if way == "nats":
        server = rng.choice(cluster.servers)
        server.kill()
    at = time.time()
    nodes[node].kill()
    nodes[node].start()
    if way == "nats":
        time.sleep(NATS_AWAY_SECONDS)
        server.start()
    if way == "next":
        stream, known = streams[0], terms(before)[streams[0]]
        while terms(now := read(cluster))[stream] == known:
            time.sleep(0.2)
        node, streams = owners(now)[stream], (stream,)
        at = time.time()
        nodes[node].kill()
        nodes[node].start()
    return Kill(way, node, at, streams)


def steps(kill: Kill, stream: str, stored: list[Stored]) -> dict[str, float] | None:
    """Seconds from the kill to the next owner's claim, to its first `live`, and to its first final."""
    entries = [entry for entry in stored if entry.stream == stream]
    known = max((entry.term for entry in entries if entry.at <= kill.at), default=0)
    later = [entry for entry in entries if entry.term > known]
    events = [(entry.at, event) for entry in later for event in entry.events]
    found = {
        "claim": next((entry.at for entry in later), None),
        "live": next((at for at, event in events if event.get("state") == "live"), None),
        "final": next((at for at, event in events if event.get("is_final")), None),
    }
    return {step: at - kill.at for step, at in found.items() if at is not None} if None not in found.values() else None


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    rng, kills = random.Random(options.seed), list[Kill]()
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(NatsCluster(directory, 3))
        nodes = {f"node{number}": NodeProcess(f"node{number}", cluster.urls, directory) for number in range(NODES)}
        for node in nodes.values():
            stack.callback(node.kill)
            node.start()
        for node in nodes.values():
            node.wait_until_ready()
        names = [f"cam{number}" for number in range(STREAMS)]
        first = nodes["node0"]
        for name in names:
            status, text = first.request("POST", "/streams", {"name": name, "url": SCENE})
            assert status == 201, text
        wait_until(lambda: all(first.captions(name) for name in names), first.describe)
        for way in itertools.islice(itertools.cycle(options.ways), options.kills):
            for node in nodes.values():
                node.wait_until_ready()
            time.sleep(rng.uniform(0.8, 1.2) * CALM_SECONDS)
            kills.append(strike(way, nodes, cluster, rng))
        time.sleep(3 * CALM_SECONDS)
        stored = read(cluster)
        if options.logs is not None:
            options.logs.mkdir(exist_ok=True)
            for path in (*directory.glob("*.log"), *directory.glob("*.out")):
                (options.logs / path.name).write_bytes(path.read_bytes())
    verdict = Verdict()
    for name in names:
        judge_log(stored, name, verdict)
    ways = {}
    for way in options.ways:
        found = [
            (kill, stream, steps(kill, stream, stored)) for kill in kills if kill.way == way for stream in kill.streams
        ]
        measured = [each for _, _, each in found if each is not None]
        ways[way] = {
            "kills": sum(kill.way == way for kill in kills),
            "streams": len(found),
            "without_a_final": len(found) - len(measured),
            **{
                step: {
                    f"p{share}_s": round(percentile([each[step] for each in measured], share / 100), 2)
                    for share in (50, 95, 100)
                }
                for step in STEPS
            },
        }
    return {
        "ways": ways,
        "finals_stored": verdict.finals,
        "violations": verdict.violations,
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS), help="in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="a directory for the logs of all processes")
    parser.add_argument("--json", type=Path, default=RESULTS / "cluster_takeover.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(options, Path(directory))
    write_result(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
