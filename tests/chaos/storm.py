"""Kills the real service at random moments under four disk conditions, and checks the results.

python -m tests.chaos.storm --kills 300    prints a table; its exit status is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from testbed.ports import free_port
from testbed.service import Service, wait_until
from tests.chaos.clients import EventSourceClient, ResumingClient, WebsocketClient
from tests.chaos.judge import Verdict, judge_client, judge_clients, judge_subtitles, read_finals

STREAM = "door"
SOURCE = f"{STREAM}=scenes:?size=64x64&rate=10&seconds=0.7"
WEATHERS = ("fair", "full", "hung", "rotated")
# Of 300 kills: 100 with the disk full, 50 with hung files, 50 with outside rotation.
SHARES = {"fair": 100, "full": 100, "hung": 50, "rotated": 50}
MAX_ALIVE_SECONDS = 4.0


class FakeService(Service):
    """With the fast fake model."""

    command = (sys.executable, "-m", "testbed.fake_model", "serve")


class FixedPortService(FakeService):
    """On one port, so that clients find the next run."""

    def __init__(self, port: int, out: Path) -> None:
        super().__init__(SOURCE, "--every", "0.25", "--quiet", out=out)
        self._arguments += ["--port", str(port)]


class Weather:
    """Disk faults of a running service."""

    def __init__(self, kind: str, out: Path, rng: random.Random) -> None:
        self.kind = kind
        self.rotated: list[Path] = []
        self._jsonl = out / f"{STREAM}.jsonl"
        self._rng = rng

    def strike(self, pid: int) -> None:
        """Cause a fault, or not. Called repeatedly."""
        if self.kind == "full" and self._rng.random() < 0.7:
            with contextlib.suppress(OSError):
                size = self._jsonl.stat().st_size
                limit = self._rng.choice([0, size, size + 200, resource.RLIM_INFINITY])
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        elif self.kind == "hung" and not self._jsonl.is_fifo() and self._rng.random() < 0.5:
            self._move_away()
            os.mkfifo(self._jsonl)
        elif self.kind == "rotated" and self._rng.random() < 0.5:
            self._move_away()
            if self._rng.random() < 0.5:
                self._jsonl.touch()

    def clear(self) -> None:
        """Remove the FIFO after a kill."""
        if self._jsonl.is_fifo():
            self._jsonl.unlink()

    def files(self) -> list[Path]:
        return [*self.rotated, *([self._jsonl] if self._jsonl.exists() else [])]

    def _move_away(self) -> None:
        if self._jsonl.exists():
            target = self._jsonl.with_name(f"{STREAM}.jsonl.{len(self.rotated)}")
            self._jsonl.replace(target)
            self.rotated.append(target)


def run_storm(kind: str, kills: int, out: Path, seed: int = 0, max_alive: float = MAX_ALIVE_SECONDS) -> Verdict:
    """`kills` runs of the service that are killed at random moments, and a last one that ends in order."""
    rng = random.Random(f"{kind}{seed}")
    port = free_port()
    weather, verdict = Weather(kind, out, rng), Verdict()
    clients: list[ResumingClient] = [WebsocketClient(STREAM, port), EventSourceClient(STREAM, port)]
    for client in clients:
        client.start()
    for run in range(kills + 1):
        with FixedPortService(port, out) as service:
            for client in clients:
                client.run = run
            is_last = run == kills
            end = time.monotonic() + (2.0 if is_last else rng.uniform(0.0, max_alive))
            while time.monotonic() < end:
                if not is_last:
                    weather.strike(service.pid)
                time.sleep(min(0.3, max(0.0, end - time.monotonic())))
            if is_last:
                goal = max(client.last_seq for client in clients) + 3
                wait_until(lambda goal=goal: min(c.last_seq for c in clients) >= goal, service.describe, 60)  # type: ignore[misc]
                status, _ = service.terminate()
                if status:
                    verdict.violations.append(f"the last run ended with {status}: {service.describe()}")
            service.kill()
        weather.clear()
    for client in clients:
        client.stop()
    finals = read_finals(weather.files(), verdict)
    may_miss = kind in ("hung", "rotated")
    judged = [judge_client(client.messages, finals, verdict, may_miss=may_miss) for client in clients]
    judge_clients(judged, verdict)
    judge_subtitles(out, STREAM, finals, verdict, all_of_them=kind in ("fair", "full"))
    verdict.violations += [refusal for client in clients for refusal in client.refused if not refusal.startswith("503")]
    return verdict


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--weather", choices=WEATHERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    broken = 0
    _write("weather   kills  finals  events  gaps  finals in gaps  violations")
    for kind in WEATHERS if options.weather is None else (options.weather,):
        kills = options.kills if options.weather else round(options.kills * SHARES[kind] / sum(SHARES.values()))
        with tempfile.TemporaryDirectory() as out:
            verdict = run_storm(kind, kills, Path(out), options.seed)
        broken += len(verdict.violations)
        _write(
            f"{kind:8} {kills:6} {verdict.finals:7} {verdict.events:7} {verdict.gaps:5} {verdict.finals_in_gaps:15} "
            f"{len(verdict.violations):11}"
        )
        for violation in verdict.violations[:20]:
            _write(f"    {violation}")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
