"""After a storm of bad cameras, viewers, WebRTC offers and changes, the service has the threads and files of before,
and each viewer, request, stream and connection to a camera leaves nothing in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from testbed.ports import free_port
from testbed.rtsp.proxy import always, intercepting
from testbed.service import Service, fetch, wait_until
from tests.chaos.memory_probe import Memory, ask_memory
from tests.chaos.storm import FakeService
from tests.media.sources.test_http import MotionJpeg, serving

pytestmark = pytest.mark.e2e

STORM_SECONDS = 5.0
OFFERS_PER_SECOND = 25
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nmissing.ts\n"


def request(service: Service, method: str, path: str, body: bytes | None = None, content: str = "") -> str:
    """The `Location` of the answer; empty without one, and for every error."""
    asked = urllib.request.Request(
        service.base + path, body, {"Content-Type": content} if content else {}, method=method
    )
    with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=20) as answer:
        return answer.headers.get("Location") or ""
    return ""


def bad_camera(asked: BaseHTTPRequestHandler) -> None:
    if asked.path == "/mjpeg":
        MotionJpeg(2)(asked)
        return
    body = PLAYLIST if asked.path == "/live.m3u8" else b"<html>" * 50
    asked.send_response(404 if asked.path == "/missing.ts" else 200)
    asked.send_header("Content-Length", str(len(body)))
    asked.end_headers()
    asked.wfile.write(body)


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Cameras with a fault each."""
    (tmp_path / "page.mp4").write_bytes(b"<html>" * 50)
    forbidden = b"RTSP/1.0 403 Forbidden\r\n{cseq}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        http = stack.enter_context(serving(bad_camera))
        rtsp = f"rtsp://127.0.0.1:{stack.enter_context(intercepting(always(forbidden)))}/x"
        paths = [f"{http}/{path}" for path in ("mjpeg", "live.m3u8", "page")]
        yield [*paths, rtsp, f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x", "rtsp://127.0.0.1:9/x", "whip:",
               str(tmp_path / "page.mp4"), "scenes:?size=64x64&rate=5"]  # fmt: skip


async def make_offer() -> bytes:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTransceiver("video", direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    offer = connection.localDescription.sdp.encode()
    await connection.close()
    return offer


class Storm:
    """Threads that abuse the service for STORM_SECONDS, and clean up after themselves."""

    def __init__(self, service: Service, urls: list[str], offer: bytes) -> None:
        self.done: dict[str, int] = {}
        self._service = service
        self._urls = urls
        self._offer = offer
        self._end = 0.0

    def run(self) -> None:
        self._end = time.monotonic() + STORM_SECONDS
        jobs: list[Callable[[random.Random], None]] = [self._churn, self._churn, self._view, self._listen]
        jobs += [self._publish] * 3
        threads = [threading.Thread(target=self._repeat, args=(job, number)) for number, job in enumerate(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for stream in json.loads(self._service.get("/streams")[1]):
            if stream["name"] != "door":
                request(self._service, "DELETE", f"/streams/{stream['name']}")

    def _repeat(self, job: Callable[[random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self._end:
            job(rng)
            self.done[job.__name__] = self.done.get(job.__name__, 0) + 1

    def _churn(self, rng: random.Random) -> None:
        name = f"bad{rng.randrange(6)}"
        new = json.dumps({"name": name, "url": rng.choice(self._urls), "every": 0.2}).encode()
        request(self._service, "POST", "/streams", new, "application/json")
        time.sleep(rng.uniform(0, 0.5))
        change = rng.choice([{}, {"every": 0.3}, {"url": rng.choice(self._urls)}])
        request(self._service, "PATCH", f"/streams/{name}", json.dumps(change).encode(), "application/json")
        time.sleep(rng.uniform(0, 0.2))
        request(self._service, "DELETE", f"/streams/{name}")

    def _view(self, rng: random.Random) -> None:
        url = self._service.base.replace("http", "ws", 1) + "/captions"
        with contextlib.suppress(OSError, WebSocketException, TimeoutError), connect(url, close_timeout=1) as viewer:
            viewer.recv(timeout=rng.uniform(0, 0.3))

    def _listen(self, rng: random.Random) -> None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self._service.base}/captions/door", timeout=1) as feed,
        ):
            feed.read1(rng.randrange(1, 500))

    def _publish(self, rng: random.Random) -> None:
        began = time.monotonic()
        session = request(self._service, "POST", f"/whip/offer{rng.randrange(8)}", self._offer, "application/sdp")
        if session and rng.random() < 0.7:
            request(self._service, "DELETE", session)
        time.sleep(max(0.0, 3 / OFFERS_PER_SECOND - (time.monotonic() - began)))


def threads_and_files(pid: int) -> tuple[int, int]:
    return len(list(Path(f"/proc/{pid}/task").iterdir())), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_storm_leaves_no_threads_and_no_files(urls: list[str], tmp_path: Path) -> None:
    offer = asyncio.run(make_offer())
    options = ("--allow-net", "--allow-local", "--read-timeout", "1")
    service = FakeService("door=scenes:?size=64x64&rate=5", *options, out=tmp_path / "out")
    with service:
        # The first storm starts what is kept for good: the threads of the pools.
        Storm(service, urls, offer).run()
        calm = settled(service)
        storm = Storm(service, urls, offer)
        storm.run()
        assert min(storm.done.values()) >= 2, storm.done
        wait_until(lambda: within(threads_and_files(service.pid), calm), lambda: describe(service, calm), 40)
        assert service.get("/healthz")[0] == 200


def within(now: tuple[int, int], calm: tuple[int, int]) -> bool:
    return now[0] <= calm[0] and now[1] <= calm[1]


def settled(service: Service) -> tuple[int, int]:
    """Threads and files once they have not changed for two seconds."""
    seen = [threads_and_files(service.pid)]

    def is_steady() -> bool:
        seen.append(threads_and_files(service.pid))
        return len(seen) > 100 and len(set(seen[-100:])) == 1

    wait_until(is_steady, service.describe, 60)
    return seen[-1]


def describe(service: Service, calm: tuple[int, int]) -> str:
    files = [str(one.readlink()) for one in Path(f"/proc/{service.pid}/fd").iterdir() if one.is_symlink()]
    names = [(one / "comm").read_text().strip() for one in Path(f"/proc/{service.pid}/task").iterdir()]
    return f"before (threads, files): {calm}; now {threads_and_files(service.pid)}\n{sorted(names)}\n{sorted(files)}"


class ProbedService(FakeService):
    command = (sys.executable, "-m", "tests.chaos.memory_probe", "serve")


EVENTS = 10
MAX_ROUNDS = 6
"""Caches fill once, and what ends late counts once; only a leak grows in every round."""
MAX_BLOCKS = 60
"""Of Python's allocator, for each event. What a viewer holds is some hundred."""
MAX_BYTES = 20_000
"""Of malloc, for each event. What a connection to a camera holds is more than 100 kB."""


def watch(service: Service) -> None:
    with connect(service.base.replace("http", "ws", 1) + "/captions", close_timeout=1) as viewer:
        viewer.recv(timeout=20)


def listen(service: Service) -> None:
    with urllib.request.urlopen(f"{service.base}/captions/door", timeout=20) as feed:
        feed.read1(200)


def ask(service: Service) -> None:
    for path in ("/streams", "/metrics", "/captions.srt", "/missing"):
        service.get(path)


def add_and_remove(service: Service, url: str) -> None:
    def change(method: str, path: str, body: object = None) -> None:
        status, text = fetch(service.base + path, method, body)
        assert status in (200, 201, 204), text

    change("POST", "/streams", {"name": "added", "url": url, "every": 0.1})
    wait_until(lambda: json.loads(service.get("/streams")[1])[-1]["captions"] > 0, service.describe)
    change("PATCH", "/streams/added", {"every": 0.2})
    change("DELETE", "/streams/added")


def test_what_came_and_went_leaves_nothing_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = free_port()
    monkeypatch.setenv("STREAMCAP_PROBE_PORT", str(port))
    # What is remembered of captions on purpose is full after the first round.
    short = ("--replay-events", "10", "--subtitle-window", "1")
    seen: list[Memory] = []
    # Not of scenes, which cache what they draw.
    with serving(MotionJpeg(1_000_000)) as endless, serving(MotionJpeg(4)) as short_lived:
        options = ("--every", "0.5", "--allow-net", "--allow-local", *short)
        with ProbedService(f"door={endless}/mjpeg", *options, out=tmp_path / "out") as service:
            seen.append(play_round(service, short_lived, port))
            while len(seen) <= MAX_ROUNDS and (len(seen) < 2 or growth(seen)):
                seen.append(play_round(service, short_lived, port))
    assert growth(seen) == {}


def play_round(service: Service, short_lived: str, port: int) -> Memory:
    for _ in range(EVENTS):
        watch(service)
        listen(service)
        ask(service)
        add_and_remove(service, f"{short_lived}/mjpeg")
    return ask_memory(port)


def growth(seen: list[Memory]) -> dict[str, int]:
    """What grew in every round by more than chance, and by how much at least."""
    rounds = list(itertools.pairwise(seen))
    grown = {
        name: min(after.objects.get(name, 0) - before.objects.get(name, 0) for before, after in rounds)
        for name in seen[-1].objects
    }
    grown = {name: count for name, count in grown.items() if count >= EVENTS // 2}
    for name, most in (("blocks", MAX_BLOCKS), ("malloc_bytes", MAX_BYTES)):
        least = min(getattr(after, name) - getattr(before, name) for before, after in rounds)
        if least >= most * EVENTS:
            grown[name] = least
    return grown
