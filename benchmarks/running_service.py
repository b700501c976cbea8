"""`streamcap serve` in a separate process, for benchmarks that measure it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
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

    @property
    def feed(self) -> str:
        return self.base.replace("http", "ws", 1) + "/captions"


@asynccontextmanager
async def serving(arguments: Sequence[str]) -> AsyncIterator[ServiceAddress]:
    """The service, listening; ended when left."""
    command = [sys.executable, "-m", "streamcap", "serve", "--port", "0", "--quiet", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
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
        yield ServiceAddress(base, process.pid, output)
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


async def _drain(stream: asyncio.StreamReader, output: list[str]) -> None:
    async for line in stream:
        output.append(line.decode())
