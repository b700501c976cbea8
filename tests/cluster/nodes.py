"""Real nodes as subprocesses, with the fast fake model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.nats import free_ports
from tests.end_to_end.service import fetch, wait_until
from tests.timeouts import TIMEOUT_FACTOR

SCENE = "scenes:?size=64x64&rate=10&seconds=0.7"


class NodeProcess:
    """`with NodeProcess("a", urls, tmp_path) as node:` — ready when entered, killed when left. The port stays the same
    when it is started again."""

    def __init__(self, name: str, nats: Sequence[str], directory: Path, *arguments: str) -> None:
        self.name = name
        self.port = free_ports(1)[0]
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(sys.executable, "-m", "tests.chaos.fake_model", "node", "--name", name, "--port", str(self.port)),
            *(part for url in nats for part in ("--nats", url)),
            *("--every", "0.5", "--allow-local", *arguments),
        ]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:  # also when interrupted: leave no process behind
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.get("/readyz")[0] == 200 or not self.is_running, self.describe)
        assert self.is_running, self.describe()

    def describe(self) -> str:
        return f"{self.name}: {self.log.read_text()[-3000:]}"

    def get(self, path: str) -> tuple[int, str]:
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        return fetch(f"http://127.0.0.1:{self.port}{path}", method, body)

    def streams(self) -> dict[str, dict[str, Any]]:
        status, text = self.get("/streams")
        return {stream["name"]: stream for stream in json.loads(text)} if status == 200 else {}

    def captions(self, name: str) -> int:
        return int(self.streams().get(name, {}).get("captions", 0))

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(TIMEOUT_FACTOR)
        self.process = None
        return status

    def kill(self) -> None:
        """kill -9; idempotent."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
