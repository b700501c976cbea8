"""`streamcap serve` in a separate process, for benchmarks that measure it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ServiceAddress:
    base: str
    """http://HOST:PORT"""
    pid: int
    log: list[str] = field(default_factory=list)
    """The lines that it has written to standard error."""
    process: asyncio.subprocess.Process | None = None
    """Of a traced service."""

    @property
    def feed(self) -> str:
        return self.base.replace("http", "ws", 1) + "/captions"

    async def trace(self) -> dict[str, Any]:
        """What a traced service has measured since the last call; see `traced_service`."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        answer: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answer


@asynccontextmanager
async def serving(arguments: Sequence[str], *, traced: bool = False) -> AsyncIterator[ServiceAddress]:
    """The service, listening; ended when left."""
    module = "benchmarks.traced_service" if traced else "streamcap"
    pipe = subprocess.PIPE if traced else None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "serve", "--port", "0", "--quiet", *arguments),
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.PIPE,
        limit=1 << 26,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    drain: asyncio.Task[None] | None = None
    try:
        output: list[str] = []
        base = ""
        async for line in process.stderr:
            output.append(line.decode())
            if (found := re.search(r"listening on (http://\S+?)/?\s*$", output[-1])) is not None:
                base = found[1]
                break
        if not base:
            raise SystemExit(f"the service did not start:\n{''.join(output)}")
        drain = asyncio.create_task(_drain(process.stderr, output))
        yield ServiceAddress(base, process.pid, output, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if drain is not None:
            await drain


def streams(base: str) -> dict[str, dict[str, Any]]:
    """`GET /streams`, by name."""
    with urllib.request.urlopen(f"{base}/streams") as answer:
        return {stream["name"]: stream for stream in json.load(answer)}


async def read_feed(socket: Any, received: list[tuple[float, dict[str, Any]]]) -> None:
    """Append each message of a websocket, with the wall time at which it came, until cancelled."""
    async for text in socket:
        received.append((time.time(), json.loads(text)))


async def _drain(stream: asyncio.StreamReader, output: list[str]) -> None:
    async for line in stream:
        output.append(line.decode())
