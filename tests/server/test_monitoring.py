"""The dashboard and the alert rules against the metrics that there are."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from streamcap.engine.statistics import ModelStatistics
from testbed.programs import require_program
from tests.server.conftest import Server

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b(?:streamcap|process)_[a-z_]+\b")
LABELS = re.compile(r"\b((?:streamcap|process)_[a-z_]+)\{([^}]*)\}")
ADDED = {"instance", "job"}
"""Labels that Prometheus adds."""


def dashboard() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "streamcap.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def alerts() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
    return [rule["expr"] for rule in rules]


async def test_dashboard_and_alerts_use_existing_metrics(server: Server) -> None:
    server.streams.get("door").final("a man opens a door")
    server.streams.engine.models["mini"] = ModelStatistics()
    text = (await server.http.get("/metrics")).text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    expressions = [*dashboard(), *alerts()]
    assert len(expressions) > 30
    for expression in expressions:
        names = NAME.findall(expression)
        assert names or expression.startswith("up{"), expression
        assert set(names) <= labels.keys(), expression
        for name, matchers in LABELS.findall(expression):
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name] | ADDED, expression


async def test_dashboard_expressions_are_valid(tmp_path: Path) -> None:
    promtool = require_program("promtool", "it reads the expressions")
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__range", "3h")}
        for number, expression in enumerate(dashboard())
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_metrics_are_read_by_prometheus(server: Server) -> None:
    promtool = require_program("promtool", "it reads the metrics")
    server.streams.get("door").final("a man opens a door")
    text = (await server.http.get("/metrics")).text
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr  # 3: remarks on style
    ours = [line for line in done.stderr.splitlines() if line.startswith("streamcap")]
    assert ours == []
