"""The dashboard and the alert rules of many machines use metrics that a node has."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from streamcap.captions.hub import Hub
from streamcap.cluster.assignment.nodes import NodeDirectory
from streamcap.cluster.assignment.registry import StreamRegistry
from streamcap.cluster.engines.dispatcher import Dispatcher
from streamcap.cluster.engines.engine_service import EngineService
from streamcap.cluster.gateway.gateway import Gateway
from streamcap.cluster.ingest import Ingest
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.metrics import ClusterMetrics
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.recorder import Recorder
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.server.metrics.exposition import render
from streamcap.streams.options import StreamOptions
from streamcap.streams.stream_set import StreamSet
from tests.cluster.engines.samples import sample

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b(?:streamcap|process)_[a-z_]+\b")


def expressions() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "streamcap-cluster.json").read_text())["panels"]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "cluster-alerts.yaml").read_text())["groups"][0]["rules"]
    return [*(target["expr"] for panel in panels for target in panel["targets"]), *(rule["expr"] for rule in rules)]


@pytest.fixture
async def metrics(connection: Connection, tmp_path: Path) -> ClusterMetrics:
    """Of a node with all roles that also asks the engines of others."""
    registry, nodes = StreamRegistry(connection), NodeDirectory(connection, None)
    streams = StreamSet(StreamOptions(), Hub(time.monotonic, time.time))
    live = LiveFeed(connection, streams.hub)
    ingest = Ingest(connection, "a", streams, registry, nodes, live)
    gateway = Gateway(connection, streams.hub, add=lambda *_: True, apply=lambda *_: None)
    recorder = Recorder(connection, "a", RecorderOptions(tmp_path), registry, nodes)
    metrics = ClusterMetrics(connection, registry, nodes, ingest, live, gateway, recorder)
    engine = Engine({}, EngineOptions(ChangeGateOptions(threshold=0.02)), lambda outcomes: None)
    metrics.dispatcher = Dispatcher("a", time.monotonic)
    metrics.engine = EngineService(connection, "a", engine, {})
    return metrics


def values_of(metrics: ClusterMetrics) -> dict[str, float]:
    """What Prometheus reads, by name; of several labels the last."""
    lines = [line.rpartition(" ") for line in render(metrics.collect()) if not line.startswith("#")]
    return {name.removeprefix("streamcap_cluster_"): float(value) for name, _, value in lines}


async def test_cluster_dashboard_and_alerts_use_known_metrics(metrics: ClusterMetrics) -> None:
    lines = [line for line in render(metrics.collect()) if not line.startswith("#")]
    known = {NAME.findall(line)[0] for line in lines}
    # Whose metrics another test compares with the service's.
    single = (DEPLOY / "grafana" / "streamcap.json").read_text()
    for expression in expressions():
        names = NAME.findall(expression)
        assert names, expression
        assert all(name in known or name in single for name in names), expression
        assert "role" not in expression or any('role="' in line and names[0] in line for line in lines), expression


async def test_metrics_of_remote_engines(metrics: ClusterMetrics) -> None:
    dispatcher, engine = metrics.dispatcher, metrics.engine
    assert dispatcher is not None and engine is not None
    dispatcher.put(sample(at=1.0))
    dispatcher.put(sample(at=2.0))  # no engine is there
    dispatcher.resent, dispatcher.given_up, dispatcher.late = 2, 3, 4
    engine.refused, engine.skipped, engine.references.forgotten = 5, 6, 7
    values = values_of(metrics)
    expected = {
        "samples_waiting": 1, "samples_in_flight": 0, "engines": 0, "samples_missed_total": 1,
        "samples_resent_total": 2, "requests_given_up_total": 3, "answers_late_total": 4,
        "engine_samples_refused_total": 5, "engine_messages_skipped_total": 6, "engine_references_forgotten_total": 7,
    }  # fmt: skip
    assert {name: values.get(name) for name in expected} == expected
    metrics.dispatcher = metrics.engine = None
    assert not set(expected) & set(values_of(metrics)), "a node without them has no such metrics"
