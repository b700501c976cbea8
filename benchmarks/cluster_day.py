"""A day of 10,000 cameras with failures, simulated with `simpy`: nodes, NATS servers, gateways and recorders that die.

The times of a takeover are those that `tests.cluster.storm` measured, drawn from its distribution; JetStream's election
from its longest pauses. A stored final is never lost: JetStream has three copies. Finals that an owner could not store
before it died, or that did not fit its memory (1,200 events a stream), were never shown, and count as never stored.

    python -m benchmarks.cluster_day --cameras 10000 --nodes 220
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simpy

from benchmarks.results import RESULTS, write_result

DAY = 86_400.0
OUTBOX_EVENTS = 1200
"""As `streamcap.streams.storage.event_outbox.MAX_EVENTS`."""


@dataclass(frozen=True)
class Assumptions:
    """Times in seconds."""

    cameras: int
    nodes: int
    final_interval: float = 3.0
    """Between two finals of one camera."""
    node_mtbf: float = 7 * DAY
    """Of one node with ingest: crash, kernel, power."""
    node_restart: float = 120.0
    nats_mtbf: float = 1 * DAY
    """Of one of three NATS servers."""
    nats_restart: float = 60.0
    node_pause_mtbf: float = 2 * DAY
    """Between two pauses of one node (virtual machine moved, network away)."""
    node_pause: float = 20.0
    rolling_updates: int = 1
    """Times a day that each node is drained and started again."""
    takeover: tuple[float, float, float] = (2.9, 4.8, 6.1)
    """Least, usual and longest seconds from the death of an owner to the claim of the next one."""
    camera_connect: tuple[float, float, float] = (0.3, 1.0, 4.0)
    """Of an RTSP camera, until its first caption."""
    election: tuple[float, float, float] = (0.5, 3.0, 7.4)
    """Seconds for which no final is stored after a NATS server that led has died."""
    handover: float = 0.3
    """Of a draining node: from the last stored final to the next owner's claim."""
    claims_per_second: float = 200.0
    """Streams that the rest of a cluster takes over in a second."""


@dataclass
class Camera:
    away: float = 0.0
    """Seconds without an owner."""
    worst: float = 0.0
    never_stored: int = 0
    takeovers: int = 0


@dataclass
class Day:
    """The state of the simulation."""

    environment: simpy.Environment
    rng: random.Random
    given: Assumptions
    cameras: list[Camera]
    owners: list[int]
    alive: set[int] = field(default_factory=set)
    nats_up: int = 3
    blocked_since: float = 0.0
    blocked_until: float = 0.0
    """Between the two JetStream stores nothing."""
    claims: simpy.Resource | None = None
    failures: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1

    def draw(self, times: tuple[float, float, float]) -> float:
        least, usual, longest = times
        return self.rng.triangular(least, longest, usual)


Process = Generator[simpy.Event, Any, None]


def take_over(day: Day, camera: int, died_at: float, *, dies: bool) -> Process:
    """Another node takes the camera. dies: the owner vanished; else it handed the camera over in order."""
    given, state = day.given, day.cameras[camera]
    if dies:
        # What waited for JetStream in the owner's memory.
        waited = died_at - day.blocked_since if day.blocked_until > died_at else 0.0
        state.never_stored += int(waited / given.final_interval)
        yield day.environment.timeout(day.draw(given.takeover))
    else:
        yield day.environment.timeout(given.handover)
    assert day.claims is not None
    with day.claims.request() as turn:
        yield turn
        if day.blocked_until > day.environment.now:  # a claim is a write
            yield day.environment.timeout(day.blocked_until - day.environment.now)
        yield day.environment.timeout(64 / given.claims_per_second)
    yield day.environment.timeout(day.draw(given.camera_connect))
    away = day.environment.now - died_at
    state.away += away
    state.worst = max(state.worst, away)
    state.takeovers += 1
    day.owners[camera] = day.rng.choice(sorted(day.alive)) if day.alive else -1


def leave(day: Day, node: int, *, dies: bool) -> None:
    """All cameras of `node` move."""
    day.alive.discard(node)
    now = day.environment.now
    for camera, owner in enumerate(day.owners):
        if owner == node:
            day.owners[camera] = -1
            day.environment.process(take_over(day, camera, now, dies=dies))


def join(day: Day, node: int) -> None:
    """`node` is back, and gets its share from those that have most: each move is a handover."""
    day.alive.add(node)
    running = [camera for camera, owner in enumerate(day.owners) if owner >= 0]
    for camera in day.rng.sample(running, len(running) // len(day.alive)):
        day.owners[camera] = -1
        day.environment.process(take_over(day, camera, day.environment.now, dies=False))


def node_life(day: Day, node: int) -> Process:
    given = day.given
    while True:
        crash = day.rng.expovariate(1 / given.node_mtbf)
        pause = day.rng.expovariate(1 / given.node_pause_mtbf)
        yield day.environment.timeout(min(crash, pause))
        if node not in day.alive:
            continue
        day.count("node killed" if crash < pause else "node paused")
        leave(day, node, dies=True)
        yield day.environment.timeout(given.node_restart if crash < pause else given.node_pause)
        join(day, node)


def rolling_update(day: Day) -> Process:
    given = day.given
    for _ in range(given.rolling_updates):
        for node in range(given.nodes):
            yield day.environment.timeout(DAY / (given.rolling_updates * given.nodes + 1))
            if node in day.alive:
                day.count("node drained")
                leave(day, node, dies=False)
                yield day.environment.timeout(15.0)
                join(day, node)


def nats_life(day: Day) -> Process:
    given = day.given
    while True:
        yield day.environment.timeout(day.rng.expovariate(1 / given.nats_mtbf))
        day.count("NATS server killed")
        day.nats_up -= 1
        pause = day.draw(given.election) if day.nats_up >= 2 else given.nats_restart
        if day.blocked_until <= day.environment.now:
            day.blocked_since = day.environment.now
        day.blocked_until = max(day.blocked_until, day.environment.now + pause)
        waiting = int(pause / given.final_interval)
        if waiting > OUTBOX_EVENTS:
            for camera in day.cameras:
                camera.never_stored += waiting - OUTBOX_EVENTS
        yield day.environment.timeout(given.nats_restart)
        day.nats_up += 1


def simulate(given: Assumptions, seed: int) -> dict[str, Any]:
    """One day. Returns what the report shows."""
    environment = simpy.Environment()
    day = Day(
        environment,
        random.Random(seed),
        given,
        [Camera() for _ in range(given.cameras)],
        [camera % given.nodes for camera in range(given.cameras)],
        set(range(given.nodes)),
    )
    day.claims = simpy.Resource(environment, 64)
    for node in range(given.nodes):
        environment.process(node_life(day, node))
    for _ in range(3):
        environment.process(nats_life(day))
    environment.process(rolling_update(day))
    environment.run(DAY)
    away = sorted(camera.away for camera in day.cameras)
    worst = sorted(camera.worst for camera in day.cameras)
    return {
        "seed": seed,
        "failures": dict(sorted(day.failures.items())),
        "takeovers": sum(camera.takeovers for camera in day.cameras),
        "availability": round(1 - sum(away) / len(away) / DAY, 7),
        "availability_of_the_worst_camera": round(1 - away[-1] / DAY, 7),
        "captions_never_stored": sum(camera.never_stored for camera in day.cameras),
        "worst_gap_s": round(worst[-1], 1),
        "p99_of_worst_gaps_s": round(worst[int(0.99 * len(worst))], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cameras", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=220, help="50 cameras each, and a tenth more")
    parser.add_argument("--days", type=int, default=5, help="days with different seeds")
    parser.add_argument("--json", type=Path, default=RESULTS / "cluster_day.json")
    options = parser.parse_args()
    given = Assumptions(options.cameras, options.nodes)
    result = {
        "assumptions": {name: getattr(given, name) for name in Assumptions.__dataclass_fields__},
        "days": [simulate(given, seed) for seed in range(options.days)],
    }
    write_result(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
