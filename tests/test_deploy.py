"""What `deploy/` and the Dockerfile hold, checked by the programs that read it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import streamcap
from streamcap.cli.service.node import node
from streamcap.cli.service.serve import serve
from streamcap.service.node import ROLES
from testbed.programs import require_program

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["alerts", "cluster-alerts"])
def test_alert_rules_and_their_examples_hold(name: str) -> None:
    promtool = require_program("promtool", "it checks the alert rules")
    run(promtool, "check", "rules", DEPLOY / "prometheus" / f"{name}.yaml")
    run(promtool, "check", "config", "--syntax-only", DEPLOY / "prometheus" / "prometheus.yml")
    run(promtool, "test", "rules", f"{name}.test.yaml", cwd=DEPLOY / "prometheus")
    rules = yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yaml").read_text())["groups"][0]["rules"]
    examples = (DEPLOY / "prometheus" / f"{name}.test.yaml").read_text()
    assert [rule["alert"] for rule in rules if f"alertname: {rule['alert']}\n" not in examples] == []


def unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists here."""
    text = (DEPLOY / "streamcap.service").read_text()
    assert "ExecStart=/opt/streamcap/bin/streamcap serve" in text
    path = tmp_path / "streamcap.service"
    path.write_text(text.replace("/opt/streamcap/bin/streamcap", sys.executable))
    return path


def test_systemd_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze", "it checks the unit")
    assert run(analyze, "verify", unit(tmp_path)).strip() == ""
    run(analyze, "security", "--offline=true", "--threshold=15", "--no-pager", unit(tmp_path))


@pytest.mark.parametrize("place", ["unit", "compose", "image"])
def test_commands_are_valid(place: str) -> None:
    """Every option that is used there exists."""
    text = {
        "unit": DEPLOY / "streamcap.service",
        "compose": DEPLOY / "compose.yaml",
        "image": ROOT / "Dockerfile",
    }[place].read_text()
    (command,) = re.findall(r"(?:ExecStart=\S+|command: \[|CMD \[)[\" ]*(serve.*)", text)
    options = re.findall(r"--[a-z][a-z-]+", command)
    parameters = inspect.signature(serve).parameters
    assert len(options) >= 3
    for option in options:
        assert option[2:].replace("-", "_") in parameters, option


def test_image_copies_what_the_context_has() -> None:
    docker = (ROOT / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", docker, re.M) for name in line.split()}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert re.search(r"^USER 10001$", docker, re.M) and "HEALTHCHECK" in docker


def test_compose_file_drops_rights() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ours = services["streamcap"]
    assert ours["read_only"] and ours["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one["ports"])
    assert (DEPLOY / ours["build"]["context"]).resolve() == ROOT


def test_cluster_compose_file_has_every_role() -> None:
    services = yaml.safe_load((DEPLOY / "cluster.compose.yaml").read_text())["services"]
    nats = [name for name, one in services.items() if one["image"].startswith("nats:")]
    ours = {name: one for name, one in services.items() if name not in nats}
    parameters = inspect.signature(node).parameters
    roles = []
    for one in ours.values():
        assert one["read_only"] and one["cap_drop"] == ["ALL"]
        assert (DEPLOY / one["build"]["context"]).resolve() == ROOT
        command = one["command"]
        assert [word for word in command if word.startswith("nats://")] == [f"nats://{name}:4222" for name in nats]
        for option in (word for word in command if word.startswith("--")):
            assert option[2:].replace("-", "_") in parameters, option
        roles += command[command.index("--roles") + 1].split(",")
    assert len(nats) == 3 and roles.count("ingest") == 2
    assert set(roles) == set(ROLES)
    assert "--out" in ours["recorder"]["command"] and ours["recorder"]["volumes"]


def test_version_is_that_of_the_change_log() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None and newest[1] == streamcap.__version__


def test_classifiers_name_pythons_that_may_install_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    minors = [int(text.removeprefix(prefix)) for text in project["classifiers"] if re.fullmatch(prefix + r"\d+", text)]
    assert minors[0] == int(project["requires-python"].removeprefix(">=3."))
    assert minors == list(range(minors[0], minors[-1] + 1))
