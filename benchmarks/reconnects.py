"""Final captions that a viewer receives over a thousand disconnects, compared with the JSONL: none lost, none doubled.

A service with two streams writes NAME.jsonl; a client subscribes through a relay that resets its connection at random
moments, also within messages. At the end, the received finals must equal the lines of the files.

Needs the client package: `pip install -e clients/python`.

    python -m benchmarks.reconnects --cuts 1000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from streamcap_client import Caption
from streamcap_client import Feed as ClientFeed

from benchmarks.results import RESULTS, write_result
from streamcap.captions.caption import Latency
from streamcap.captions.event import Status, StreamState
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.track import CaptionTrack, SampleTime
from streamcap.server.app import create_app
from streamcap.server.http.server import listen, serve
from streamcap.server.options import ServerOptions

NAMES = ("door", "yard")
LATENCY = Latency(ingest=3.1, queue=0.4, encode=2.2, decode=4.0, total=9.7)
QUIET_SECONDS = 5.0


class Relay:
    """Forwards TCP, and resets open connections on request, possibly within a message."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self._port = port
        self._dice = dice
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    async def accept(self, probe: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._open.add(writer)
        try:
            await asyncio.gather(self._copy(probe, back), self._copy(ahead, writer))
        finally:
            self._open.discard(writer)
            for one in (writer, back):
                one.transport.abort()

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in self._open:
            writer.transport.abort()
            self.cuts += 1
        self._open.clear()

    async def _copy(self, probe: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await probe.read(self._dice.choice((50, 300, 65536))):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


async def talk(hub: Hub, files: dict[str, Any], relay: Relay, cuts: int, dice: random.Random) -> None:
    """Publish and file captions, and cut, until there were so many cuts."""
    tracks = {name: CaptionTrack(name, every=1.0) for name in NAMES}
    moments = dict.fromkeys(NAMES, 0.0)
    number = 0
    while relay.cuts < cuts:
        name = dice.choice(NAMES)
        moments[name] += 1.0
        at = SampleTime(0, moments[name], time.time(), "arrival")
        for _ in range(dice.randrange(4)):
            hub.publish(tracks[name].interim(at, "a man", LATENCY))
        number += 1
        event = hub.publish(tracks[name].final(at, f"caption {number} of {name}", -0.4, LATENCY))
        files[name].write(event.text + "\n")
        if dice.random() < 0.4:
            relay.cut()
        await asyncio.sleep(dice.random() * 0.02)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context((folder / f"{name}.jsonl").open("w")) for name in NAMES}


async def measure(cuts: int, seed: int, folder: Path) -> dict[str, object]:
    dice = random.Random(seed)
    hub = Hub(monotonic=time.monotonic, wall=time.time)
    for name in NAMES:
        hub.add(EventLog(name))
        hub.publish(Status(name, StreamState.LIVE))
    streams: Any = SimpleNamespace(hub=hub, ready=True, names=lambda: list(NAMES))
    options = ServerOptions(port=0)
    listener, stop = listen(options), asyncio.Event()
    serving = asyncio.create_task(serve(create_app(streams, options), options, stop, listener))
    relay = Relay(listener.getsockname()[1], dice)
    gate = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    client = ClientFeed(
        f"http://127.0.0.1:{gate.sockets[0].getsockname()[1]}",
        since=dict.fromkeys(NAMES, 1),
        first_pause=0.005,
        longest_pause=0.05,
    )
    received: list[Caption] = []

    async def follow() -> None:
        async for event in client:
            if isinstance(event, Caption) and event.is_final:
                received.append(event)

    following = asyncio.create_task(follow())
    began = time.monotonic()
    with opened(folder) as files:
        await talk(hub, files, relay, cuts, dice)
    seconds = time.monotonic() - began
    filed = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()] for name in NAMES}
    total = sum(len(lines) for lines in filed.values())
    quiet = time.monotonic() + QUIET_SECONDS
    while len(received) < total and time.monotonic() < quiet:  # noqa: ASYNC110 - a deadline beside the state
        await asyncio.sleep(0.05)
    await client.close()
    await following
    gate.close()
    stop.set()
    await serving
    missing = doubled = 0
    for name in NAMES:
        had = [caption.seq for caption in received if caption.stream == name]
        missing += len({line["seq"] for line in filed[name]} - set(had))
        doubled += len(had) - len(set(had))
    return {
        "cuts": relay.cuts,
        "reconnections": client.reconnections,
        "finals_filed": total,
        "finals_received": len(received),
        "missing": missing,
        "doubled": doubled,
        "in_order": all(
            [caption.text for caption in received if caption.stream == name] == [line["text"] for line in filed[name]]
            for name in NAMES
        ),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(arguments.cuts, arguments.seed, Path(folder)))
    for name, value in result.items():
        print(f"{name:<18}{value}")
    write_result(RESULTS / "reconnects.json", result)
    sys.exit(0 if result["in_order"] and not result["missing"] and not result["doubled"] else 1)


if __name__ == "__main__":
    main()
