"""A real service on a thread that records every traceback, and raw sockets to it."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamcap.server.app import create_app
from streamcap.server.http.server import listen, serve
from streamcap.server.options import ServerOptions
from tests.server.conftest import FakeStreams

MAX_ANSWER_BYTES = 1_000_000
# The newest exchanges, which are repeated to see whether the service grows, and how often.
REPEATED = 200
REPEATS = 3


class Failures(logging.Handler):
    """Collects error log records of the service."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))


class Service:
    """One stream, `door`, with captions; `failures` must stay empty."""

    def __init__(self, **options: Any) -> None:
        self.options = ServerOptions(port=0, **options)
        self.failures = Failures()
        self.streams = FakeStreams()
        self._exchanges: deque[tuple[bytes, ...]] = deque(maxlen=REPEATED)
        self._ready = threading.Event()
        self._listener = listen(self.options)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fuzzed")

    def __enter__(self) -> Service:
        logging.getLogger().addHandler(self.failures)
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        logging.getLogger().removeHandler(self.failures)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.failures.texts.append(repr(context)))
        self._stop = asyncio.Event()
        door = await self.streams.add("door", "rtsp://user:***@camera/1")
        for number in range(20):
            door.final(f"caption {number}")
        self.app = create_app(self.streams, self.options)  # type: ignore[arg-type]
        self._loop.call_later(0.2, self._ready.set)
        await serve(self.app, self.options, self._stop, self._listener)

    def tasks(self) -> int:
        """Tasks of the service's loop."""
        return len(asyncio.all_tasks(self._loop))

    def exchange(self, *parts: bytes) -> bytes:
        """The response to `parts`, sent in sequence, until the connection is closed."""
        self._exchanges.append(parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            answer = bytearray()
            try:
                for part in parts:
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65_536):
                    answer += data
                    assert len(answer) < MAX_ANSWER_BYTES
            except OSError as error:
                # Refused and closed before everything was sent.
                assert not isinstance(error, TimeoutError), f"hangs after {bytes(answer)[:200]!r}"
        return bytes(answer)

    def check(self) -> None:
        """Raises AssertionError with the first traceback, if there was one."""
        assert not self.failures.texts, self.failures.texts[0]

    def growth_of_repeats(self) -> float:
        """MB that the process grows by while the newest exchanges are repeated, after they were repeated once.

        The inputs alone would not do: Hypothesis keeps records of all of them, 220 MB for 5,000 lists of requests.
        """
        self._repeat()
        before = _resident_mb()
        for _ in range(REPEATS):
            self._repeat()
        return _resident_mb() - before

    def _repeat(self) -> None:
        for parts in list(self._exchanges):
            self.exchange(*parts)
        gc.collect()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@contextmanager
def no_peak(mb: float) -> Iterator[None]:
    """The code in the block never needs more than `mb` MB above what the process has needed before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < mb, f"{grown:.0f} MB more"
