"""CPU time and latency of sending captions to many viewers, compared with a bare `websockets` broadcast.

Three processes: the service (the real application, captions published by a timer), a bare server that calls
`websockets`' `broadcast` with the same texts, and the viewers, which are raw sockets and need little CPU. CPU is the
server's user and system time while it sends; latency is from publishing to the viewer's read, on one monotonic clock.
Some further viewers never read.

    python -m benchmarks.fanout --viewers 1000 --silent 50 --rate 2 --seconds 20
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import platform
import resource
import secrets
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_bare

from benchmarks.results import RESULTS, write_result
from streamcap.captions.caption import Latency
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.track import CaptionTrack, SampleTime
from streamcap.server.app import create_app
from streamcap.server.http.server import listen, serve
from streamcap.server.options import ServerOptions

GOAL = 1.5
LATENCY = Latency(ingest=3.1, queue=0.4, encode=2.2, decode=4.0, total=9.7)


@dataclass(frozen=True)
class Load:
    """What is sent to whom."""

    viewers: int
    silent: int
    rate: float
    """Captions a second."""
    seconds: float


@dataclass(frozen=True)
class Measured:
    """One server's run."""

    server: str
    deliveries: int
    cpu_us_per_delivery: float
    cpu_share: float
    """Of one core, over the run."""
    latency_ms_p50: float
    latency_ms_p99: float
    latency_ms_max: float
    rss_mib_before: float
    rss_mib_after: float


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def publish(load: Load, orders: Connection, send: Callable[[str], None]) -> None:
    """Wait for the word to begin, send at the rate, and say what it cost."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, orders.recv)
    before, memory, began = cpu_seconds(), rss_mib(), time.monotonic()
    for number in range(round(load.rate * load.seconds)):
        await asyncio.sleep(max(0.0, began + number / load.rate - time.monotonic()))
        send(f"at {time.monotonic():.6f} a man in a red shirt walks across the road with his dog")
    await asyncio.sleep(1.0)
    orders.send((cpu_seconds() - before, memory, rss_mib()))
    await loop.run_in_executor(None, orders.recv)


async def run_streamcap(load: Load, orders: Connection) -> None:
    hub = Hub(monotonic=time.monotonic, wall=time.time)
    hub.add(EventLog("door"))
    track = CaptionTrack("door", every=1.0)
    streams: Any = SimpleNamespace(hub=hub, ready=True, names=lambda: ["door"])
    options = ServerOptions(port=0, max_viewers=100_000)
    app = create_app(streams, options)
    listener = listen(options)
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, options, stop, listener))
    await asyncio.sleep(0.5)
    orders.send(listener.getsockname()[1])
    sent = 0

    def send(text: str) -> None:
        nonlocal sent
        at = SampleTime(0, float(sent), time.time(), "arrival")
        sent += 1
        hub.publish(track.final(at, text, -0.4, LATENCY))

    await publish(load, orders, send)
    stop.set()
    await serving


async def run_bare(load: Load, orders: Connection) -> None:
    connections: set[ServerConnection] = set()

    async def keep(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            connections.discard(connection)

    track = CaptionTrack("door", every=1.0)
    sent = 0

    def send(text: str) -> None:
        nonlocal sent
        caption = track.final(SampleTime(0, float(sent), time.time(), "arrival"), text, -0.4, LATENCY)
        sent += 1
        message = {"type": "caption", "seq": sent, **caption.as_json()}
        broadcast(connections, json.dumps(message, ensure_ascii=False, separators=(",", ":")))

    async with serve_bare(keep, "127.0.0.1", 0, compression=None, backlog=4096) as server:
        orders.send(next(iter(server.sockets)).getsockname()[1])
        await publish(load, orders, send)


class Viewer(asyncio.Protocol):
    """A minimal websocket client: it reads unmasked frames under 64 KiB."""

    def __init__(self, latencies: list[float], ready: Callable[[], None]) -> None:
        self._latencies = latencies
        self._ready = ready
        self._buffer = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck type
        self.transport = transport
        transport.write(handshake())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        buffer = self._buffer + data
        if not self._open:
            head, separator, buffer = buffer.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = head
                return
            assert b" 101 " in head.partition(b"\r\n")[0], head
            self._open = True
            self._ready()
        while len(buffer) >= 4:
            size, start = buffer[1] & 127, 2
            if size == 126:
                size, start = int.from_bytes(buffer[2:4], "big"), 4
            if len(buffer) < start + size:
                break
            payload, opcode = buffer[start : start + size], buffer[0] & 15
            buffer = buffer[start + size :]
            if opcode == 9:
                self.transport.write(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
            at = payload.find(b'"text":"at ')
            if at >= 0:
                self._latencies.append(now - float(payload[at + 11 :].split(b" ", 1)[0]))
        self._buffer = buffer


def handshake() -> bytes:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    return (
        "GET /captions?stream=door HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def silent_viewer(port: int) -> socket.socket:
    """A socket that asks for the feed and never reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(handshake())
    return client


async def watch(port: int, load: Load, orders: Connection) -> tuple[list[float], tuple[float, float, float]]:
    """Connect everyone, say begin, collect until the server is done."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    opened = 0
    all_open = asyncio.Event()

    def ready() -> None:
        nonlocal opened
        opened += 1
        if opened == load.viewers:
            all_open.set()

    silent = [silent_viewer(port) for _ in range(load.silent)]
    transports = []
    for _ in range(load.viewers):
        transport, _protocol = await loop.create_connection(lambda: Viewer(latencies, ready), "127.0.0.1", port)
        transports.append(transport)
    await asyncio.wait_for(all_open.wait(), 60)
    await asyncio.sleep(1.0)
    orders.send("begin")
    cost: tuple[float, float, float] = await loop.run_in_executor(None, orders.recv)
    orders.send("end")
    for client in silent:
        client.close()
    for transport in transports:
        transport.abort()
    return latencies, cost


def run_server(main: Callable[[Load, Connection], Awaitable[None]], load: Load, orders: Connection) -> None:
    async def go() -> None:
        await main(load, orders)

    uvloop.run(go())


def measure(name: str, main: Callable[[Load, Connection], Awaitable[None]], load: Load) -> Measured:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run_server, args=(main, load, there), daemon=True)
    process.start()
    port = here.recv()
    latencies, (cpu, before, after) = uvloop.run(watch(port, load, here))
    process.join(20)
    expected = load.viewers * round(load.rate * load.seconds)
    assert len(latencies) == expected, f"{name}: {len(latencies)} of {expected} messages came"
    cuts = statistics.quantiles(latencies, n=100)
    return Measured(
        server=name,
        deliveries=len(latencies),
        cpu_us_per_delivery=round(1e6 * cpu / len(latencies), 2),
        cpu_share=round(cpu / load.seconds, 4),
        latency_ms_p50=round(1000 * cuts[49], 2),
        latency_ms_p99=round(1000 * cuts[98], 2),
        latency_ms_max=round(1000 * max(latencies), 2),
        rss_mib_before=round(before, 1),
        rss_mib_after=round(after, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--silent", type=int, default=50, help="viewers that never read")
    parser.add_argument("--rate", type=float, default=2.0, help="captions a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2, help="of both servers in turn; the median is taken")
    arguments = parser.parse_args()
    load = Load(arguments.viewers, arguments.silent, arguments.rate, arguments.seconds)
    open_files = load.viewers + load.silent + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    rounds = [
        measure(name, main, load)
        for _ in range(arguments.rounds)
        for name, main in (("bare broadcast", run_bare), ("streamcap", run_streamcap))
    ]
    print(f"{load.viewers} viewers, {load.silent} that never read, {load.rate:g} captions/s, {load.seconds:g} s")
    print(f"{'server':<16}{'µs/delivery':>12}{'core':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'MiB':>16}")
    for one in rounds:
        memory = f"{one.rss_mib_before:.1f} → {one.rss_mib_after:.1f}"
        print(
            f"{one.server:<16}{one.cpu_us_per_delivery:>12.1f}{one.cpu_share:>8.1%}{one.latency_ms_p50:>9.1f}"
            f"{one.latency_ms_p99:>9.1f}{one.latency_ms_max:>9.1f}{memory:>16}"
        )
    bare = statistics.median(one.cpu_us_per_delivery for one in rounds if one.server == "bare broadcast")
    ours = statistics.median(one.cpu_us_per_delivery for one in rounds if one.server == "streamcap")
    print(f"ratio {ours / bare:.2f} (goal ≤ {GOAL}): {'met' if ours <= GOAL * bare else 'missed'}")
    result = {
        "question": "CPU per delivered caption against a bare websockets broadcast",
        "load": asdict(load),
        "rounds": [asdict(one) for one in rounds],
        "ratio": round(ours / bare, 3),
        "goal": GOAL,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "websockets": version("websockets")},
    }
    name = f"fanout-{load.viewers}.json"
    write_result(RESULTS / name, result)


if __name__ == "__main__":
    main()
