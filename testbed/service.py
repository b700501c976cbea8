"""`streamcap serve` as a subprocess, and a websocket viewer that records all messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from testbed.timeouts import TIMEOUT_FACTOR


def fetch(url: str, method: str = "GET", body: object = None) -> tuple[int, str]:
    """Status and text of an HTTP response; 0 and the reason where there is none. `body` is sent as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_FACTOR) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Service:
    """`with Service("door=rtsp://…", "--every", "0.5") as service:` — ready when entered, killed when left."""

    command = (sys.executable, "-m", "streamcap", "serve")

    def __init__(self, *arguments: str, out: Path | None = None) -> None:
        self._arguments = [*arguments, "--port", "0", *(["--out", str(out)] if out else [])]
        self.errors: list[str] = []
        self.printed: list[str] = []
        self.base = ""
        self._listening = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        process = self._process = subprocess.Popen(
            [*self.command, *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            process_group=0,  # Ctrl-C is for the test or benchmark, which ends the service
        )
        for stream, lines in ((process.stderr, self.errors), (process.stdout, self.printed)):
            reader = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            reader.start()
            self._readers.append(reader)
        try:
            wait_until(lambda: self._listening.is_set() or process.poll() is not None, self.describe, 240)
            wait_until(lambda: process.poll() is not None or self.get("/readyz")[0] == 200, self.describe)
            assert process.poll() is None, self.describe()
        except BaseException:  # also when interrupted: leave no process behind
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def describe(self) -> str:
        return "\n".join(self.errors[-30:])

    def get(self, path: str) -> tuple[int, str]:
        return fetch(self.base + path)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Exit status and the seconds it took to end."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(number)
        status = self._process.wait(TIMEOUT_FACTOR)
        seconds = time.monotonic() - began
        self.kill()
        return status, seconds

    def kill(self) -> None:
        """kill -9; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for reader in self._readers:
                reader.join(TIMEOUT_FACTOR)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip())
            if (found := re.search(r"listening on (http://\S+?)/?$", line.rstrip())) is not None:
                self.base = found[1]
                self._listening.set()


class Viewer:
    """Reads `/captions` on a thread until the block ends."""

    def __init__(self, service: Service, query: str = "") -> None:
        self.messages: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._url = f"{service.base.replace('http', 'ws', 1)}/captions{query}"
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._describe = service.describe

    def __enter__(self) -> Self:
        self._socket = self._stack.enter_context(connect(self._url, close_timeout=2))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        self._thread.join(5)

    def finals(self, stream: str | None = None) -> list[dict[str, Any]]:
        return [
            m for m in list(self.messages) if m["type"] == "caption" and m["is_final"] and stream in (None, m["stream"])
        ]

    def states(self, stream: str) -> list[str]:
        return [m["state"] for m in list(self.messages) if m["type"] == "status" and m["stream"] == stream]

    def until(self, condition: Callable[[], object], seconds: float = TIMEOUT_FACTOR) -> None:
        """Wait for a state of the messages."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"{self.messages[-5:]}\n{self._describe()}"

    def _read(self) -> None:
        try:
            for text in self._socket:
                with self._changed:
                    self.messages.append(json.loads(text))
                    self._changed.notify_all()
        except ConnectionClosed:
            with self._changed:
                self._changed.notify_all()


def wait_until(
    condition: Callable[[], object], describe: Callable[[], str] = str, seconds: float = TIMEOUT_FACTOR
) -> None:
    """Poll until `condition` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(0.02)
