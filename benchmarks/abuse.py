"""Effect of abusive clients on well-behaved viewers, and on the service's resources.

    python -m benchmarks.abuse [--seconds 20] [--connects 1000] [--json benchmarks/results/abuse.json]

Two processes: the service (the real application, captions published by a timer), and the clients. Good viewers receive
two captions per second, first alone, then together with abusive clients of every kind:

- connects: `--connects` new connections per second; of ten, six complete the handshake and disconnect, two disconnect
  during it, one requests an unknown stream, one sends no HTTP;
- silent: viewers that subscribe to the feed and never read;
- large: websocket messages of 10 MB in sequence, each on a new connection;
- binary: the same with binary frames.

Reports the good viewers' latency in both phases, the service's responses, and its open files, tasks and memory before
the abuse and after all abusive clients have disconnected.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import multiprocessing
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.fanout import LATENCY, Viewer, handshake, rss_mib, silent_viewer
from benchmarks.results import RESULTS, percentiles, write_result
from streamcap.bench.machine import describe_machine
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.track import CaptionTrack, SampleTime
from streamcap.server.app import create_app
from streamcap.server.http.server import listen, serve
from streamcap.server.options import ServerOptions

CAPTIONS_PER_SECOND = 2.0
LARGE = 10_000_000
UNKNOWN_STREAM = handshake().replace(b"stream=door", b"stream=nobody")
OPEN_FILES = 20_000


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def run_service(orders: Connection) -> None:
    """Publish until `stop` arrives; answer every `count` with what the service holds."""
    hub = Hub(monotonic=time.monotonic, wall=time.time)
    hub.add(EventLog("door"))
    track = CaptionTrack("door", every=1.0)
    streams: Any = SimpleNamespace(hub=hub, ready=True, names=lambda: ["door"])
    options = ServerOptions(port=0)
    app = create_app(streams, options)
    listener, stop = listen(options), asyncio.Event()
    serving = asyncio.create_task(serve(app, options, stop, listener))
    orders.send(listener.getsockname()[1])

    async def publish() -> None:
        for number in itertools.count():
            text = f"at {time.monotonic():.6f} a man in a red shirt walks across the road with his dog"
            hub.publish(track.final(SampleTime(0, float(number), time.time(), "arrival"), text, -0.4, LATENCY))
            await asyncio.sleep(1 / CAPTIONS_PER_SECOND)

    publishing = asyncio.create_task(publish())
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, orders.recv) == "count":
        gc.collect()
        orders.send(
            {
                "open_files": open_files(),
                "tasks": len(asyncio.all_tasks()),
                "viewers": app.state.broadcaster.present,
                "rss_mib": round(rss_mib(), 1),
                "closed_slow": app.state.broadcaster.statistics.closed_slow,
            }
        )
    publishing.cancel()
    stop.set()
    await serving


def start_service(orders: Connection) -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    _raise_limit()
    uvloop.run(run_service(orders))


class AbusiveClients:
    """Clients of every abusive kind; counts the service's answers."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connects(self, per_second: float, until: float) -> None:
        """Open connections at a steady rate; one that the service is late to answer keeps no other waiting."""
        began = time.monotonic()
        for number in itertools.count():
            due = began + number / per_second
            if due >= until:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._spawn(self._connect(number % 10))

    async def repeat(self, act: Callable[[], Awaitable[None]], until: float) -> None:
        """`act` one after the other."""
        while time.monotonic() < until:
            await act()

    async def large(self) -> None:
        """A text message of 10 MB, in one frame."""
        await self._send_frame("large", struct.pack(">BBQ4x", 0x81, 0x80 | 127, LARGE) + b"x" * LARGE)

    async def binary(self) -> None:
        """A binary frame of one byte."""
        await self._send_frame("binary", b"\x82\x81\x00\x00\x00\x00\x01")

    async def wait_closed(self) -> None:
        """Until the last connection is closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, connection: Any) -> None:
        task = asyncio.create_task(connection)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, kind: int) -> None:
        request = UNKNOWN_STREAM if kind == 8 else b"\x16\x03\x01 this is no HTTP\r\n\r\n" if kind == 9 else handshake()
        try:
            probe, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request[:40] if kind in (6, 7) else request)
                if kind in (6, 7):
                    self.answers["cut by us"] += 1
                    return
                self.answers[(await probe.readuntil(b"\r\n")).decode().strip().partition(" ")[2]] += 1
            finally:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.answers[f"connects: {type(error).__name__}"] += 1

    async def _send_frame(self, kind: str, frame: bytes) -> None:
        """Send a frame after the handshake, and count the close code of the answer."""
        try:
            probe, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(handshake())
                await probe.readuntil(b"\r\n\r\n")
                writer.write(frame)
                self.answers[f"{kind}: closed with {await _close_code(probe)}"] += 1
            finally:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.answers[f"{kind}: {type(error).__name__}"] += 1


async def _close_code(probe: asyncio.StreamReader) -> int:
    while True:
        first, size = await probe.readexactly(2)
        if size == 126:
            size = int.from_bytes(await probe.readexactly(2), "big")
        payload = await probe.readexactly(size)
        if first & 15 == 8:
            return int.from_bytes(payload[:2], "big")


async def measure(port: int, orders: Connection, arguments: argparse.Namespace) -> dict[str, Any]:
    loop = asyncio.get_running_loop()

    async def count_held() -> dict[str, Any]:
        orders.send("count")
        found: dict[str, Any] = await loop.run_in_executor(None, orders.recv)
        return found

    latencies: list[float] = []
    good = [
        (await loop.create_connection(lambda: Viewer(latencies, lambda: None), "127.0.0.1", port))[0]
        for _ in range(arguments.viewers)
    ]
    # A little abuse first: what is made once and kept (pools, caches) is no leak.
    await _abuse(AbusiveClients(port), arguments, 2.0)
    before = await _settled(count_held, arguments.viewers)
    latencies.clear()
    await asyncio.sleep(arguments.seconds)
    alone = _latency(latencies)
    latencies.clear()
    clients = AbusiveClients(port)
    silent = [silent_viewer(port) for _ in range(arguments.silent)]
    await _abuse(clients, arguments, arguments.seconds)
    beside = _latency(latencies)
    during = await count_held()
    for one in silent:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    after = await _settled(count_held, arguments.viewers)
    orders.send("stop")
    for transport in good:
        transport.abort()
    return {
        "question": "good viewers beside bad ones, and what stays behind",
        "seconds": arguments.seconds,
        "good_viewers": arguments.viewers,
        "connects_per_second": arguments.connects,
        "silent_viewers": arguments.silent,
        "latency_ms_alone": alone,
        "latency_ms_beside": beside,
        "answers": dict(sorted(clients.answers.items())),
        "service": {"before": before, "during": during, "after": after},
    }


async def _abuse(clients: AbusiveClients, arguments: argparse.Namespace, seconds: float) -> None:
    until = time.monotonic() + seconds
    await asyncio.gather(
        clients.connects(arguments.connects, until),
        clients.repeat(clients.large, until),
        clients.repeat(clients.binary, until),
    )
    await clients.wait_closed()


async def _settled(count_held: Callable[[], Awaitable[dict[str, Any]]], viewers: int) -> dict[str, Any]:
    """What the service holds once only the good viewers are left and nothing is being closed any more."""
    found = await count_held()
    for _ in range(30):
        await asyncio.sleep(1.0)
        last, found = found, await count_held()
        same = all(last[key] == found[key] for key in ("open_files", "tasks"))
        if found["viewers"] == viewers and same:
            break
    return found


def _latency(latencies: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return percentiles((1000 * seconds for seconds in latencies), (50, 99))


def _raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--viewers", type=int, default=20, help="that behave")
    parser.add_argument("--connects", type=float, default=1000.0, help="a second")
    parser.add_argument("--silent", type=int, default=50, help="viewers that never read")
    parser.add_argument("--json", type=Path, default=RESULTS / "abuse.json")
    arguments = parser.parse_args()
    _raise_limit()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=start_service, args=(there,), daemon=True)
    process.start()
    result = uvloop.run(measure(here.recv(), here, arguments)) | {"machine": describe_machine(torch.device("cpu"))}
    process.join(20)
    show(result)
    write_result(arguments.json, result)


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{result['good_viewers']} good viewers, {result['connects_per_second']:g} connects a second")
    for column in ("latency, ms", "alone", "beside abusive ones"):
        table.add_column(column, justify="right")
    for name in ("p50", "p99", "max"):
        table.add_row(name, *(f"{result[f'latency_ms_{phase}'][name]:.1f}" for phase in ("alone", "beside")))
    console.print(table)
    held = Table(title="what the service holds")
    for column in ("", "before", "during", "after"):
        held.add_column(column, justify="right")
    for name in result["service"]["before"]:
        held.add_row(name, *(str(result["service"][when][name]) for when in ("before", "during", "after")))
    console.print(held)
    for answer, count in result["answers"].items():
        console.print(f"{count:>7} × {answer}", highlight=False)


if __name__ == "__main__":
    main()
