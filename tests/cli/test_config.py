"""`streamcap config`, and `serve --config` as far as it goes without a model."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from streamcap.cli import main
from streamcap.config.config import StreamConfig
from streamcap.service import app
from streamcap.streams.settings import StreamSettings

pytestmark = pytest.mark.slow

MODULE = importlib.import_module("streamcap.cli.service.serve")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["streamcap", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STREAMCAP_TOKEN", "STREAMCAP_VIEW_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "cams.yaml"
    path.write_text(
        "server: {port: 0, every: 5, token: t-1, quiet: true}\nstreams:\n  door: {url: 'scenes:', every: 2}\n"
    )
    return path


def test_check_of_valid_file(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "config", "check", file) == 0
    assert capsys.readouterr().out == f"{file}: valid; streams: door\n"
    assert run(monkeypatch, "config", "check", file, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "models": [], "streams": ["door"]}


@pytest.mark.parametrize("command", [["config", "check"], ["serve", "--config"]])
def test_wrong_file_is_refused_line_by_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    file.write_text("server: {prt: 1}\nstreams:\n  door: {evry: 1}\n")
    assert run(monkeypatch, *command, file) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"streamcap: {file}:1: server.prt: unknown key; did you mean port?",
        f"streamcap: {file}:3: streams.door: url is missing",
        f"streamcap: {file}:3: streams.door.evry: unknown key; did you mean every?",
    ]


def test_check_tells_problems_as_json(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("server: {port: 70000}\n")
    assert run(monkeypatch, "config", "check", file, "--json") == 2
    problem = {"file": str(file), "line": 1, "message": "server.port: 70000: use 0 to 65535"}
    assert json.loads(capsys.readouterr().out) == {"valid": False, "problems": [problem]}


def test_schema_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "config", "schema") == 0
    assert set(json.loads(capsys.readouterr().out)["properties"]) == {"server", "models", "streams", "cluster"}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[app.ServeOptions]:
    """The options of each service that would have started."""
    found: list[app.ServeOptions] = []

    async def serve_streams(options: app.ServeOptions, *_: Any, **__: Any) -> bool:
        found.append(options)
        return True

    monkeypatch.setattr(app, "serve_streams", serve_streams)
    monkeypatch.setattr(MODULE, "run_service", asyncio.run)
    return found


def test_options_of_file_are_used(file: Path, monkeypatch: pytest.MonkeyPatch, started: list[app.ServeOptions]) -> None:
    assert run(monkeypatch, "serve", "--config", file) == 0
    (options,) = started
    assert (options.server.port, options.stream_options.every, options.show) == (0, 5, None)
    assert options.server.publish_tokens == {"t-1"}
    assert (options.sources, options.streams) == ([], {"door": StreamConfig("scenes:", StreamSettings(every=2))})


def test_command_line_then_environment_then_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, started: list[app.ServeOptions]
) -> None:
    monkeypatch.setenv("STREAMCAP_TOKEN", "of-environment")
    assert run(monkeypatch, "serve", "--every", "3", "--config", file, "yard=scenes:", "door=scenes:?seed=2") == 0
    (options,) = started
    assert (options.stream_options.every, options.server.publish_tokens) == (3, {"of-environment"})
    assert options.sources == [("yard", "scenes:"), ("door", "scenes:?seed=2")]
    assert options.streams == {}


def test_invalid_option_error_does_not_name_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "serve", "--config", file, "--every", "0") == 2
    assert capsys.readouterr().err.startswith("streamcap: --every 0: must be")
    file.write_text("server: {every: 0}")
    assert run(monkeypatch, "serve", "--config", file) == 2
    assert capsys.readouterr().err.startswith(f"streamcap: {file}:1: server.every: 0: must be")
