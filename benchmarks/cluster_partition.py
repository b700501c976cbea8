"""Cuts an owner off its network and lets it come back: `ip link set down` in network namespaces of its own.

One node that decodes is in a namespace; the other one, a gateway and three real nats-servers are outside. While the
link is down the streams move; afterwards the former owner is refused. A reader that shares no code with streamcap
judges the logs. Needs root and `ip`.

    python -m benchmarks.cluster_partition --times 3 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, percentiles, write_result
from testbed.cluster.judge import Stored, Verdict, judge_log, owners, read_logs
from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster
from testbed.service import wait_until

STREAMS = 4


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def namespace(name: str, outside: str, inside: str) -> Iterator[str]:
    """A network namespace with one link. Gives the name of its end outside."""
    link = f"{name}-o"
    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", f"{outside}/30", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{inside}/30", "dev", "eth0")
        for each in ("eth0", "lo"):
            ip("-n", name, "link", "set", each, "up")
        yield link
    finally:
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def recoveries(stored: list[Stored], cuts: list[float]) -> list[float]:
    """Seconds from each cut to the next final of each stream that the cut node ran."""
    found = []
    for at in cuts:
        before = owners([entry for entry in stored if entry.at <= at])
        for stream in (stream for stream, node in before.items() if node == "cut"):
            finals = (
                entry.at
                for entry in stored
                if entry.stream == stream and entry.at > at and any(e.get("is_final") for e in entry.events)
            )
            # What was on its way when the link went down does not count.
            later = [when for when in finals if when > at + 1]
            found.append(later[0] - at if later else float("inf"))
    return found


def run(times: int, seconds: float, directory: Path) -> dict[str, Any]:
    name = f"sc{os.getpid() % 10_000}"
    outside, inside = "10.213.77.1", "10.213.77.2"
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(namespace(name, outside, inside))
        cluster = stack.enter_context(NatsCluster(directory, 3, host="0.0.0.0"))  # noqa: S104 - the namespace connects
        urls = [url.replace("127.0.0.1", outside) for url in cluster.urls]
        other = stack.enter_context(NodeProcess("other", cluster.urls, directory))
        cut = NodeProcess("cut", urls, directory, "--roles", "ingest,engine", network=name)
        stack.callback(cut.kill)
        cut.start()
        wait_until(lambda: "listening on" in cut.log.read_text(), cut.describe)
        names = [f"cam{number}" for number in range(STREAMS)]
        for stream in names:
            status, text = other.request("POST", "/streams", {"name": stream, "url": SCENE})
            assert status == 201, text
        cuts: list[float] = []
        for _ in range(times):
            wait_until(lambda: "cut" in owners(asyncio.run(read_logs(cluster.urls))).values(), cut.describe)
            time.sleep(5)
            cuts.append(time.time())
            ip("link", "set", link, "down")
            time.sleep(seconds)
            ip("link", "set", link, "up")
        time.sleep(10)
        stored = asyncio.run(read_logs(cluster.urls))
    verdict = Verdict()
    for stream in names:
        judge_log(stored, stream, verdict)
    found = recoveries(stored, cuts)
    return {
        "cuts": times,
        "seconds": seconds,
        "streams_moved": len(found),
        "finals": verdict.finals,
        "recovery_s": percentiles(found, (50,)),
        "violations": verdict.violations,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", type=Path, default=RESULTS / "cluster_partition.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = run(options.times, options.seconds, Path(directory))
    write_result(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
