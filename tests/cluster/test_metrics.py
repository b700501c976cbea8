"""The dashboard and the alert rules of many machines use metrics that a node has."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import yaml

from streamcap.captions.hub import Hub
from streamcap.cluster.connection import Connection
from streamcap.cluster.gateway import Gateway
from streamcap.cluster.ingest import Ingest
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.metrics import ClusterMetrics
from streamcap.cluster.nodes import NodeDirectory
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.recorder import Recorder
from streamcap.cluster.registry import StreamRegistry
from streamcap.server.metrics.exposition import render
from streamcap.streams.options import StreamOptions
from streamcap.streams.stream_set import StreamSet

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b(?:streamcap|process)_[a-z_]+\b")


def expressions() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "streamcap-cluster.json").read_text())["panels"]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "cluster-alerts.yaml").read_text())["groups"][0]["rules"]
    return [*(target["expr"] for panel in panels for target in panel["targets"]), *(rule["expr"] for rule in rules)]


async def test_dashboard_and_alerts_of_clusters_use_existing_metrics(connection: Connection, tmp_path: Path) -> None:
    registry, nodes = StreamRegistry(connection), NodeDirectory(connection, None)
    streams = StreamSet(StreamOptions(), Hub(time.monotonic, time.time))
    live = LiveFeed(connection, streams.hub)
    ingest = Ingest(connection, "a", streams, registry, nodes, live)
    gateway = Gateway(connection, streams.hub, add=lambda *_: True, apply=lambda *_: None)
    recorder = Recorder(connection, "a", RecorderOptions(tmp_path), registry, nodes)
    metrics = ClusterMetrics(connection, registry, nodes, ingest, live, gateway, recorder)
    lines = [line for line in render(metrics.collect()) if not line.startswith("#")]
    known = {NAME.findall(line)[0] for line in lines}
    # Whose metrics another test compares with the service's.
    single = (DEPLOY / "grafana" / "streamcap.json").read_text()
    for expression in expressions():
        names = NAME.findall(expression)
        assert names, expression
        assert all(name in known or name in single for name in names), expression
        assert "role" not in expression or any('role="' in line and names[0] in line for line in lines), expression
