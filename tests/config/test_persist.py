"""`serve --persist` as a process: what HTTP clients changed is there again after `kill -9`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.service import fetch
from tests.chaos.storm import FakeService

pytestmark = pytest.mark.e2e

SCENES = "scenes:?size=64x64&rate=5"
FIELDS = ("name", "every", "model", "prompt", "mask", "decode", "min_confidence", "labels")
FILE = f"""
streams:
  door: {{url: "{SCENES}", every: 1}}
  yard: {{url: "{SCENES}", every: 1}}
"""


def settings_of(service: FakeService) -> dict[str, dict[str, Any]]:
    """Of each stream, by name."""
    status, text = service.get("/streams")
    assert status == 200
    return {stream["name"]: {field: stream[field] for field in FIELDS} for stream in json.loads(text)}


def test_changes_over_http_survive_kill_9(tmp_path: Path) -> None:
    config = tmp_path / "cams.yaml"
    config.write_text(FILE)
    arguments = ("--config", str(config), "--persist", "--allow-local", "--quiet")
    with FakeService(*arguments, out=tmp_path / "out") as first:
        gate = {"name": "gate", "url": SCENES, "every": 0.5, "prompt": "Who is there?", "labels": {"site": "north"}}
        assert fetch(f"{first.base}/streams", "POST", gate)[0] == 201
        change = {"mask": [[0, 0], [0.5, 0], [0.5, 0.5]], "min_confidence": 0.4, "decode": "keyframes"}
        assert fetch(f"{first.base}/streams/door", "PATCH", change)[0] == 200
        assert fetch(f"{first.base}/streams/yard", "DELETE")[0] == 204
        before = settings_of(first)
        first.kill()
    assert set(before) == {"door", "gate"} and before["door"]["decode"] == "keyframes"
    with FakeService(*arguments, out=tmp_path / "out") as second:
        assert settings_of(second) == before
