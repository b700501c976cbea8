"""Real nodes and a real nats-server: cameras on one machine, engines on others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster
from testbed.service import wait_until
from testbed.timeouts import TIMEOUT_FACTOR
from tests.cluster.test_node import Viewer, numbers

pytestmark = pytest.mark.e2e


def engine_status(url: str, name: str) -> tuple[float, float]:
    """The free credit and the rows a second of node `name`, by `streamcap cluster status`."""
    command = [sys.executable, "-m", "streamcap", "cluster", "status", "--json", "--nats", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_FACTOR)
    nodes = {node["id"].partition("-")[0]: node for node in json.loads(done.stdout)["nodes"]}
    return nodes[name]["credits"], nodes[name]["rows_per_second"]


def metric(node: NodeProcess, name: str) -> float:
    """A metric without labels; 0: the node does not have it."""
    values = [line.split()[1] for line in node.get("/metrics")[1].splitlines() if line.split(" ")[0] == name]
    return float(values[0]) if values else 0.0


def test_cameras_and_engines_on_different_nodes(nats_server: NatsCluster, tmp_path: Path) -> None:
    urls = nats_server.urls
    cameras = NodeProcess("cameras", urls, tmp_path, "--roles", "ingest,gateway", f"door={SCENE}")
    first = NodeProcess("first", urls, tmp_path, "--roles", "engine")
    second = NodeProcess("second", urls, tmp_path, "--roles", "engine")
    viewer = Viewer("door")
    with cameras:
        reason = "captioning failed: no engine serves model mini"
        wait_until(lambda: cameras.streams().get("door", {}).get("reason") == reason, cameras.describe)
        wait_until(lambda: metric(cameras, "streamcap_cluster_samples_missed_total") > 0, cameras.describe)
        with first:
            wait_until(lambda: metric(first, "streamcap_cluster_engine_credit") > 0, first.describe)
            assert metric(cameras, "streamcap_cluster_engines") == 1
            viewer.read(cameras, 3)
            assert any(not m["is_final"] for m in viewer.messages if m["type"] == "caption"), "interims come too"
            wait_until(lambda: cameras.streams()["door"]["reason"] == "", cameras.describe)
            with second:
                first.kill()
                viewer.read(cameras, 3)
                # The report of a node that has just started knows of no samples yet.
                wait_until(lambda: min(engine_status(urls[0], "second")) > 0, second.describe)
                assert second.terminate() == 0, second.describe()
        wait_until(lambda: cameras.streams()["door"]["reason"] == reason, cameras.describe)
    seen = numbers(viewer.messages)
    assert seen == list(range(seen[0], seen[0] + len(seen)))
