"""Real nodes as processes of their own, with the fast fake model."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.ports import free_port
from testbed.service import fetch, wait_until
from testbed.timeouts import TIMEOUT_FACTOR

SCENE = "scenes:?size=64x64&rate=10&seconds=0.7"
# A process that has imported everything once, and forks a node in milliseconds: an import takes seconds of CPU.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["streamcap.cli", "streamcap.service.node", "testbed.fake_model", "testbed.cluster.nodes"]
)


def run_command(arguments: Sequence[str], log: str, network: str | None) -> None:
    """The command `streamcap` with the fake model, in this process; its output goes to the end of `log`.

    network: a network namespace that `ip netns add` made.
    """
    if network is not None:
        with Path("/run/netns", network).open() as namespace:
            ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    from streamcap.cli import main
    from streamcap.service import models
    from testbed.fake_model import load

    models.load_model = load  # type: ignore[assignment]
    sys.argv = ["streamcap", *arguments]
    main()


class NodeProcess:
    """`with NodeProcess("a", urls, tmp_path) as node:` — ready when entered, killed when left. The port stays the same
    when it is started again."""

    def __init__(
        self, name: str, nats: Sequence[str], directory: Path, *arguments: str, network: str | None = None
    ) -> None:
        self.name = name
        self._network = network
        self.port = free_port()
        self.log = directory / f"{name}.log"
        self.process: BaseProcess | None = None
        self._command = [
            *("node", "--name", name, "--port", str(self.port)),
            *(part for url in nats for part in ("--nats", url)),
            *("--every", "0.5", "--allow-local", *arguments),
        ]

    def start(self) -> None:
        self.log.touch()
        self.process = _FORKS.Process(
            target=run_command, args=(self._command, str(self.log), self._network), daemon=True
        )
        self.process.start()

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
    def pid(self) -> int:
        assert self.process is not None and self.process.pid is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.is_alive()

    @property
    def exit_status(self) -> int | None:
        """Negative: the number of the signal that ended it."""
        return None if self.process is None else self.process.exitcode

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
        if self.process is not None and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """The exit status."""
        assert self.process is not None
        self.process.join(TIMEOUT_FACTOR)
        status, self.process = self.process.exitcode, None
        assert status is not None, self.describe()
        return status

    def kill(self) -> None:
        """kill -9; idempotent."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.join()
