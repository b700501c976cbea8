"""Memory, threads and files of a service with four cameras over real network links, and every fault of a network.

    sudo python -m benchmarks.soak [--minutes 40] [--every 1] [--json benchmarks/results/soak.json]

Needs root, `ip` and `tc` (iproute2), and GStreamer's RTSP server; without one of them it says which, and exits with 2.
Writes the curve as JSON, and as a PNG of the same name. Ctrl-C or SIGTERM ends the run early, with its result.

Each camera is a GStreamer RTSP server in a network namespace of its own, connected by a veth pair. In turn, each one
gets one of these faults for 10 to 30 seconds, then works again for as long:

- half-open: the link goes, and the server is killed and started, so that no FIN or RST arrives; the link returns;
- link: the link goes and returns;
- trickle: the link passes about one byte a second (a token bucket of 8 bit/s);
- codec: the server is killed and starts again with another codec and size;
- clock: the camera's clock jumps by an hour (libfaketime, if it is installed), then back.

Meanwhile viewers of the websocket and of SSE connect, read for a few seconds and leave, and a publisher adds, changes
and removes streams of the built-in scenes.

Reported: resident memory, threads and open files every 5 s (about 1,000 times in a long run), at the start (the mean of
the first minute after 30 s) and at the end (after all faults, viewers and added streams are gone), and the slope of the
memory over the last half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from rich.console import Console
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from streamcap.bench.machine import describe_machine
from testbed.programs import SYSTEM_PYTHON
from testbed.service import Service, wait_until

CAMERAS = 4
FAULTS = ("half-open", "link", "trickle", "codec", "clock")
SAMPLE_SECONDS = 5.0
MAX_SAMPLES = 1000
"""About so many at most: a longer run is sampled less often."""
KEEP_SAMPLES = 120
"""The curve so far is written whenever so many more are there, so that a killed run of hours leaves it."""
SETTLE_SECONDS = 45.0
"""Longer than the pause between two reconnections, so that all cameras are back."""
MEASURED = ("rss_mib", "anonymous_mib", "threads", "files")
# What the service remembers of captions has a bound, by default of half an hour and an hour. Here it is full within
# the first minutes, so that what still grows later is a leak.
MEMORY = ("--replay-events", "100", "--subtitle-window", "60")
_CAMERA = Path(__file__).parents[1] / "testbed/rtsp/changing_camera.py"
_PORT = 8554
# The library of the program `faketime`: only the library reads the time from a file again and again.
_FAKE_CLOCK = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class NamespaceCamera:
    """Camera `number` in its namespace, with the host at 10.231.N.1 and the camera at 10.231.N.2."""

    def __init__(self, number: int) -> None:
        self.name = f"cam{number}"
        self.url = f"rtsp://10.231.{number}.2:{_PORT}/live"
        # At most 15 characters, for a link.
        self._space = self._link = f"soak{os.getpid()}-{number}"
        self._network = f"10.231.{number}"
        self._codec = "h264"
        self._clock = tempfile.NamedTemporaryFile(mode="w", suffix=".clock")  # noqa: SIM115 - closed in __exit__
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.push(self)  # a half-made network goes too
            self._make()
            stack.pop_all()
        return self

    def _make(self) -> None:
        self._set_clock("+0")
        run("ip", "netns", "add", self._space)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        run("ip", "address", "add", f"{self._network}.1/24", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        for command in (
            ("address", "add", f"{self._network}.2/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            run("ip", "-n", self._space, *command)
        self._start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kill()
        # Not left to the namespace, which lives as long as one of its sockets.
        for command in (("link", "del", self._link), ("netns", "del", self._space)):
            subprocess.run(("ip", *command), check=False, capture_output=True)
        self._clock.close()

    def strike(self, fault: str) -> None:
        if fault in ("half-open", "link"):
            run("ip", "link", "set", self._link, "down")
            if fault == "half-open":
                self._kill()
                self._start()
        elif fault == "trickle":
            self._bucket("add", "tbf", "rate", "8bit", "burst", "1600", "latency", "9s")
        elif fault == "codec":
            self._codec = "jpeg"
            self._kill()
            self._start()
        elif fault == "clock":
            self._set_clock("+3600")

    def mend(self, fault: str) -> None:
        if fault in ("half-open", "link"):
            run("ip", "link", "set", self._link, "up")
        elif fault == "trickle":
            self._bucket("del")
        elif fault == "codec":
            self._codec = "h264"
            self._kill()
            self._start()
        elif fault == "clock":
            self._set_clock("+0")

    def _bucket(self, action: str, *parameters: str) -> None:
        run("ip", "netns", "exec", self._space, "tc", "qdisc", action, "dev", "eth0", "root", *parameters)

    def _set_clock(self, offset: str) -> None:
        self._clock.seek(0)
        self._clock.truncate()
        self._clock.write(offset)
        self._clock.flush()

    def _start(self) -> None:
        command = [SYSTEM_PYTHON, str(_CAMERA), str(_PORT), self._codec]
        fake: dict[str, str] = {}
        if _FAKE_CLOCK is not None:
            fake |= {"LD_PRELOAD": str(_FAKE_CLOCK), "FAKETIME_TIMESTAMP_FILE": self._clock.name}
            fake |= {"FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self._server = subprocess.Popen(
            ["ip", "netns", "exec", self._space, "env", *(f"{name}={value}" for name, value in fake.items()), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "READY\n":
            raise RuntimeError(f"{self.name}: the camera did not start")

    def _kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 9)
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


@dataclass
class Sample:
    seconds: float
    rss_mib: float
    anonymous_mib: float
    """Without pages of files, which the system drops and reads again as it likes."""
    threads: int
    files: int


class Soak:
    """The faults, viewers and publisher, each on a thread, until `stop`."""

    def __init__(self, service: Service, cameras: list[NamespaceCamera], seed: int) -> None:
        self.counts: dict[str, int] = {}
        self.failures: list[str] = []
        self._service = service
        self._cameras = cameras
        self._stopping = threading.Event()
        self._rng = random.Random(seed)
        jobs = [
            *(lambda camera=camera: self._strike(camera) for camera in cameras),
            self._view,
            self._view,
            self._listen,
        ]
        jobs.append(self._publish)
        self._threads = [threading.Thread(target=self._guarded, args=(job,)) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            while not self._stopping.is_set():
                job()
        except Exception as error:  # noqa: BLE001 - a load that ended must not look like a quiet service
            self.failures.append(f"{type(error).__name__}: {error}")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _pause(self, least: float, most: float) -> None:
        self._stopping.wait(self._rng.uniform(least, most))

    def _strike(self, camera: NamespaceCamera) -> None:
        self._pause(10, 30)
        fault = self._rng.choice(FAULTS)
        if self._stopping.is_set() or (fault == "clock" and _FAKE_CLOCK is None):
            return
        camera.strike(fault)
        self._pause(10, 30)
        camera.mend(fault)
        self._count(fault)

    def _view(self) -> None:
        url = self._service.base.replace("http", "ws", 1) + "/captions"
        with contextlib.suppress(OSError, WebSocketException), connect(url, close_timeout=1) as socket:
            end = time.monotonic() + self._rng.uniform(0.1, 5)
            while time.monotonic() < end and not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    socket.recv(timeout=0.5)
            self._count("websocket viewers")
        self._pause(0.1, 1)

    def _listen(self) -> None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self._service.base}/captions/cam1", timeout=5) as feed,
        ):
            end = time.monotonic() + self._rng.uniform(0.1, 5)
            while time.monotonic() < end and feed.read1(4096):
                pass
            self._count("SSE viewers")
        self._pause(0.1, 1)

    def _publish(self) -> None:
        name = f"added{self._rng.randrange(8)}"
        url = "scenes:?size=64x64&rate=2"
        for method, path, body in (
            ("POST", "/streams", {"name": name, "url": url, "every": 5}),
            ("PATCH", f"/streams/{name}", {"every": 4}),
            ("GET", "/streams", None),
            ("DELETE", f"/streams/{name}", None),
        ):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(
                self._service.base + path, data, {"Content-Type": "application/json"}, method=method
            )
            with (
                contextlib.suppress(urllib.error.HTTPError, OSError),
                urllib.request.urlopen(request, timeout=10) as got,
            ):
                self._count(f"{method} {got.status}")
            self._pause(0.5, 3)


def sample(pid: int, began: float) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    rss, anonymous = (round(int(status[key].split()[0]) / 1024, 2) for key in ("VmRSS", "RssAnon"))
    return Sample(round(time.monotonic() - began, 1), rss, anonymous, int(status["Threads"]), files)


def mean(samples: list[Sample], since: float, until: float) -> dict[str, float]:
    chosen = [asdict(one) for one in samples if since <= one.seconds <= until] or [asdict(samples[-1])]
    return {key: round(float(np.mean([one[key] for one in chosen])), 2) for key in MEASURED}


def slope(samples: list[Sample], since: float, key: str = "rss_mib") -> dict[str, float]:
    """MiB an hour, and the standard error of that: of the means of ten parts, since neighboring samples are alike."""
    chosen = [one for one in samples if one.seconds >= since]
    if len(chosen) < 3:
        return {"mib_an_hour": float("nan"), "standard_error": float("nan")}
    hours, mib = np.array([(one.seconds / 3600, getattr(one, key)) for one in chosen]).T
    line = np.polyfit(hours, mib, 1)
    parts = np.array_split(np.arange(len(hours)), min(10, len(hours)))
    at = np.array([hours[part].mean() for part in parts])
    off = np.array([(mib - np.polyval(line, hours))[part].mean() for part in parts])
    error = np.sqrt((off**2).sum() / max(1, len(off) - 2) / ((at - at.mean()) ** 2).sum())
    return {"mib_an_hour": round(float(line[0]), 2), "standard_error": round(float(error), 2)}


def draw(samples: list[Sample], path: Path) -> None:
    import matplotlib.pyplot as plt  # only here: the figures do not need it

    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(9, 6))
    minutes = [one.seconds / 60 for one in samples]
    for axis, key, label in zip(
        axes, ("rss_mib", "threads", "files"), ("memory, MiB", "threads", "files"), strict=True
    ):
        axis.plot(minutes, [getattr(one, key) for one in samples], linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def missing() -> str | None:
    """What this machine lacks for the run; None if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root: run it with sudo"
    for program in ("ip", "tc", SYSTEM_PYTHON):
        if shutil.which(program) is None:
            return f"the program {program} is not installed"
    found = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"], check=False, capture_output=True
    )
    return "GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0) is not installed" if found.returncode else None


def measure(options: argparse.Namespace, ended: threading.Event) -> dict[str, Any]:
    """ended: set by Ctrl-C or SIGTERM; the run then ends as if its minutes were over."""
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        cameras = [stack.enter_context(NamespaceCamera(number)) for number in range(1, CAMERAS + 1)]
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sources = [f"{camera.name}={camera.url}" for camera in cameras]
        arguments = [*sources, "--every", f"{options.every:g}", "--allow-local", "--quiet", *MEMORY]
        service = stack.enter_context(Service(*arguments, out=out))
        began = time.monotonic()
        pause = max(SAMPLE_SECONDS, 60 * options.minutes / MAX_SAMPLES)

        def watch(seconds: float, stop: threading.Event) -> None:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0 and not stop.is_set():
                samples.append(sample(service.pid, began))
                if len(samples) % KEEP_SAMPLES == 0:
                    options.json.write_text(json.dumps(curve(samples), indent=1) + "\n")
                stop.wait(min(pause, left))

        def all_live() -> bool:
            streams = json.loads(service.get("/streams")[1] or "[]")
            return len(streams) == CAMERAS and all(one["state"] == "live" for one in streams)

        never = threading.Event()
        wait_until(all_live, service.describe, 120)
        watch(SETTLE_SECONDS, never)
        quiet = time.monotonic() - began
        soak = Soak(service, cameras, options.seed)
        soak.start()
        try:
            watch(60 * options.minutes - 2 * SETTLE_SECONDS, ended)
        finally:
            soak.stop()
        wait_until(all_live, service.describe, 120)
        watch(SETTLE_SECONDS, never)
        total = time.monotonic() - began
        streams = json.loads(service.get("/streams")[1])
        status, seconds = service.terminate()
    draw(samples, options.json.with_suffix(".png"))
    return {
        "machine": describe_machine(torch.device("cpu")),
        "cameras": CAMERAS,
        "every": options.every,
        "start": mean(samples, quiet - SETTLE_SECONDS / 2, quiet),
        "end": mean(samples, total - SETTLE_SECONDS / 2, total),
        "load": soak.counts,
        "load_that_ended": soak.failures,
        "reconnections": {one["name"]: one["reconnections"] for one in streams},
        "captions": {one["name"]: one["captions"] for one in streams},
        "exit_status": status,
        "seconds_to_end": round(seconds, 2),
        **curve(samples),
    }


def curve(samples: list[Sample]) -> dict[str, Any]:
    total = samples[-1].seconds
    return {
        "minutes": round(total / 60, 1),
        "slope_of_last_half": {key: slope(samples, total / 2, key) for key in ("rss_mib", "anonymous_mib")},
        "samples": [asdict(one) for one in samples],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/soak.json"))
    options = parser.parse_args()
    console = Console()
    lacking = missing()
    if lacking is not None:
        console.print(f"soak: {lacking}")
        sys.exit(2)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    result = measure(options, ended)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    console.print({key: value for key, value in result.items() if key != "samples"})


if __name__ == "__main__":
    main()
