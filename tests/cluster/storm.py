"""Kills and pauses nodes and NATS servers at random moments, and judges logs and clients.

python -m tests.cluster.storm --kills 200 --json FILE    exit status 1: a promise was broken, or a process ended

Every 25 strikes logs, clients and files are judged as they are, and FILE is written. After an interruption the same
command goes on with the strikes that are left; after --shard strikes it goes on with a new cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from testbed.cluster.judge import (
    Stored,
    Verdict,
    judge_client,
    judge_files,
    judge_log,
    owners,
    read_logs,
    recorded_finals,
)
from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster
from testbed.service import wait_until

KINDS = ("node", "nats", "pause")
# Of ten strikes.
WEIGHTS = (6, 2, 2)
ALONE_SECONDS = 10.0
"""A node that is killed so long before and after any other strike at nodes and NATS servers is killed alone."""
PAUSE_SECONDS = 30.0
"""Far longer than the time after which JetStream gives a stream to another node."""
ELECTION_SECONDS = 60.0
"""How long a judgement waits for logs that cannot be read."""


class Client:
    """Reads one stream on a thread, from one gateway after another, and always resumes."""

    def __init__(self, stream: str, nodes: list[NodeProcess], rng: random.Random) -> None:
        self.stream = stream
        self.messages: list[dict[str, Any]] = []
        self.last = 0
        self.error: Exception | None = None
        """What ended the reading."""
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
        try:
            while not self._stopping:
                with contextlib.suppress(OSError, WebSocketException):
                    self._read(self._rng.choice(self._nodes).port)
                time.sleep(0.1)
        except Exception as error:  # noqa: BLE001 - reported by the storm: a client that ended must not look late
            self.error = error

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
    recoveries_alone: list[float] = field(default_factory=list)
    """Seconds from the kill of an owner to the next stored final of each of its streams."""
    recoveries_others: list[float] = field(default_factory=list)
    """The same, where another node or a NATS server was struck within ALONE_SECONDS, or was paused."""
    nats_pauses: list[float] = field(default_factory=list)
    """The longest time without any stored message after the kill of a NATS server."""
    strikes: dict[str, int] = field(default_factory=dict)
    takeovers: int = 0
    """Terms of all logs after the first."""
    is_complete: bool = False
    """Judged at the end, when every client and every file had caught up; else in the middle of the run."""

    def as_json(self) -> dict[str, Any]:
        """What a report shows."""
        verdict = self.verdict
        return {
            "is_complete": self.is_complete,
            "strikes": dict(sorted(self.strikes.items())),
            "takeovers": self.takeovers,
            "finals_stored": verdict.finals,
            "finals_received": verdict.received,
            "finals_recorded": verdict.recorded,
            "gaps": verdict.gaps,
            **{
                name: sorted(round(seconds, 2) for seconds in values)
                for name, values in (
                    ("recoveries_alone_s", self.recoveries_alone),
                    ("recoveries_others_s", self.recoveries_others),
                    ("nats_pauses_s", self.nats_pauses),
                )
            },
            "violations": verdict.violations[:20],
        }


class Storm:
    """Strikes at the processes of a cluster. Whoever is killed starts again at once, whoever is paused goes on later;
    of the NATS servers a majority always runs.
    """

    def __init__(self, cluster: NatsCluster, processes: list[NodeProcess], rng: random.Random) -> None:
        self.marks: list[tuple[str, str, float]] = []
        self.strikes: dict[str, int] = {}
        self._cluster = cluster
        self._processes = processes
        self._rng = rng
        self._paused: dict[str, threading.Timer] = {}
        self._restart: threading.Timer | None = None

    def strike(self) -> None:
        kind = self._rng.choices(KINDS, WEIGHTS)[0]
        self._check()
        awake = [process for process in self._processes if process.name not in self._paused]
        if kind == "nats" and (self._restart is None or not self._restart.is_alive()):
            server = self._rng.choice(self._cluster.servers)
            self._mark("nats", server.url)
            server.kill()
            self._restart = threading.Timer(self._rng.uniform(2.0, 8.0), server.start)
            self._restart.start()
        elif kind == "pause" and len(self._paused) < 1:
            process = self._rng.choice(awake)
            self._mark("pause", process.name)
            process.signal(signal.SIGSTOP)
            timer = threading.Timer(PAUSE_SECONDS, self._resume, (process,))
            self._paused[process.name] = timer
            timer.start()
        elif awake:
            self.kill(self._rng.choice(awake))

    def kill(self, process: NodeProcess) -> None:
        """kill -9; it starts again at once."""
        self._check()
        self._mark("node", process.name)
        process.kill()
        process.start()

    def _check(self) -> None:
        for process in self._processes:
            if process.name not in self._paused:
                assert process.is_running, f"it has ended by itself, {process.exit_status}: {process.describe()}"
        down = sum(not server.is_running for server in self._cluster.servers)
        assert down <= (self._restart is not None and self._restart.is_alive()), "a nats-server has ended by itself"

    def end(self) -> None:
        """Everybody runs again."""
        for timer in (*self._paused.copy().values(), *filter(None, (self._restart,))):
            timer.join()

    def _mark(self, kind: str, what: str) -> None:
        self.marks.append((kind, what, time.time()))
        key = f"{kind}" if kind == "nats" else f"{kind} {what.rstrip('0123456789')}"
        self.strikes[key] = self.strikes.get(key, 0) + 1

    def _resume(self, process: NodeProcess) -> None:
        process.signal(signal.SIGCONT)
        self._paused.pop(process.name, None)


def run_storm(
    kills: int,
    directory: Path,
    *,
    nodes: int = 3,
    recorders: int = 2,
    streams: int = 4,
    servers: int = 3,
    seed: int = 0,
    calm: float = 8.0,
    alone: int = 0,
    judge_every: int = 25,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """`kills` strikes, `calm` seconds apart at most, then a judgement.

    alone: the first strikes are so many kills of owners, each alone: nothing else is struck around it.
    report: takes a judgement in the middle of the run, after each `judge_every` strikes; one with a violation ends it.
    """
    rng = random.Random(seed)
    out = directory / "out"
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(NatsCluster(directory, servers))
        gateways = [NodeProcess(f"node{number}", cluster.urls, directory) for number in range(nodes)]
        files = ("--roles", "recorder", "--out", str(out), "--rotate-bytes", "65536")
        writers = [NodeProcess(f"recorder{number}", cluster.urls, directory, *files) for number in range(recorders)]
        for process in (*gateways, *writers):
            stack.callback(process.kill)
            process.start()
        for process in (*gateways, *writers):
            process.wait_until_ready()
        names = [f"cam{number}" for number in range(streams)]
        for name in names:
            status, text = gateways[0].request("POST", "/streams", {"name": name, "url": SCENE})
            assert status == 201, text
        wait_until(lambda: all(gateways[0].captions(name) for name in names), gateways[0].describe)
        clients = [Client(name, gateways, random.Random(f"{seed}{name}{i}")) for name in names for i in range(2)]
        for client in clients:
            client.start()
        storm = Storm(cluster, [*gateways, *writers], rng)
        for number in range(1, kills + 1):
            if number <= alone:
                for process in (*gateways, *writers):
                    process.wait_until_ready()
                time.sleep(rng.uniform(1.05, 1.25) * ALONE_SECONDS)
                owner = rng.choice(sorted(owners(_read_logs(cluster.urls)).values()))
                storm.kill(next(node for node in gateways if node.name == owner))
            else:
                time.sleep(ALONE_SECONDS if number == alone + 1 > 1 else rng.uniform(0.3, 1.0) * calm)
                storm.strike()
            assert not (ended := [client.error for client in clients if client.error is not None]), ended
            if number % judge_every == 0 and number < kills:
                outcome = _judge_now(cluster.urls, storm, names, clients, out if writers else None)
                report(outcome)
                if outcome.verdict.violations:
                    return outcome
        storm.end()
        for process in (*gateways, *writers):
            process.wait_until_ready()
        goal = {name: max(client.last for client in clients if client.stream == name) + 5 for name in names}
        wait_until(lambda: all(client.last >= goal[client.stream] for client in clients), gateways[0].describe)
        for client in clients:
            client.stop()
        if writers:
            wait_until(lambda: all(recorded_seq(out, name) >= goal[name] for name in names), writers[0].describe)
            for process in writers:  # what is recorded now is complete
                process.kill()
        stored = asyncio.run(read_logs(cluster.urls))
        recorded = {name: recorded_finals(out, name) for name in names} if writers else None
        received = [(client.stream, client.messages) for client in clients]
        outcome = _judge(storm, names, received, recorded, stored)
        outcome.is_complete = True
        return outcome


def _read_logs(urls: list[str]) -> list[Stored]:
    """The logs, once they can be read: JetStream may elect a leader now."""
    end = time.monotonic() + ELECTION_SECONDS
    while True:
        try:
            return asyncio.run(read_logs(urls))
        except (NatsError, OSError, TimeoutError):
            if time.monotonic() >= end:
                raise
            time.sleep(0.5)


def _judge_now(urls: list[str], storm: Storm, names: list[str], clients: list[Client], out: Path | None) -> Outcome:
    """A judgement while everything runs."""
    # First what came out of the logs, then the logs: whatever was received must be there.
    received = [(client.stream, list(client.messages)) for client in clients]
    recorded = None if out is None else {name: recorded_finals(out, name) for name in names}
    return _judge(storm, names, received, recorded, _read_logs(urls))


def _judge(
    storm: Storm,
    names: list[str],
    received: list[tuple[str, list[dict[str, Any]]]],
    recorded: dict[str, list[dict[str, Any]]] | None,
    stored: list[Stored],
) -> Outcome:
    outcome = Outcome(strikes=dict(storm.strikes))
    for name in names:
        judge_log(stored, name, outcome.verdict)
        if recorded is not None:
            judge_files(recorded[name], stored, name, outcome.verdict)
        outcome.takeovers += max((entry.term for entry in stored if entry.stream == name), default=1) - 1
    for stream, messages in received:
        judge_client(messages, stored, stream, outcome.verdict)
    measure(storm.marks, stored, outcome)
    return outcome


def recorded_seq(out: Path, stream: str) -> int:
    """Of the newest final in the files."""
    finals = recorded_finals(out, stream)
    return int(finals[-1]["seq"]) if finals else 0


def measure(marks: list[tuple[str, str, float]], stored: list[Stored], outcome: Outcome) -> None:
    """How long streams stood still after each strike of `marks`: kind, name, wall clock."""
    for kind, what, at in marks:
        if kind == "nats":
            times = [at, *(entry.at for entry in stored if at <= entry.at <= at + 15)]
            outcome.nats_pauses.append(max((b - a for a, b in itertools.pairwise(times)), default=15.0))
            continue
        if kind == "pause":
            continue
        found = outcome.recoveries_alone if _is_alone(what, at, marks) else outcome.recoveries_others
        for stream in {entry.stream for entry in stored}:
            before = [entry for entry in stored if entry.stream == stream and entry.at <= at]
            if owners(before).get(stream) != what:
                continue
            finals = (
                entry.at
                for entry in stored
                if entry.stream == stream and entry.at > at and any(e.get("is_final") for e in entry.events)
            )
            # In the middle of a run there may be none yet.
            found += [after - at for after in itertools.islice(finals, 1)]


def _is_alone(node: str, at: float, marks: list[tuple[str, str, float]]) -> bool:
    """Whether nothing else that a takeover needs was struck within ALONE_SECONDS, or was paused. Recorders do not
    count."""
    others = [mark for mark in marks if mark[1:] != (node, at) and not mark[1].startswith("recorder")]
    return not any(
        -ALONE_SECONDS < at - when < ALONE_SECONDS + (PAUSE_SECONDS if kind == "pause" else 0.0)
        for kind, _, when in others
    )


def main() -> None:
    from tests.cluster.shards import run_shards  # it needs this module

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--shard", type=int, default=50, help="most strikes at one cluster")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--recorders", type=int, default=2)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calm", type=float, default=8.0, help="most seconds between two strikes")
    parser.add_argument("--alone", type=int, default=10, help="of a shard: kills of owners with nothing else around")
    parser.add_argument("--judge-every", type=int, default=25, help="strikes between two judgements")
    parser.add_argument("--json", type=Path, default=Path("cluster_chaos.json"))
    options = parser.parse_args()
    run = functools.partial(
        run_storm,
        nodes=options.nodes,
        recorders=options.recorders,
        streams=options.streams,
        calm=options.calm,
        alone=options.alone,
        judge_every=options.judge_every,
    )
    is_kept = run_shards(run, options.kills, options.json, strikes=options.shard, seed=options.seed)
    sys.exit(not is_kept)


if __name__ == "__main__":
    main()
