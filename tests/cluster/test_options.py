"""`streamcap node --config`: streams, models and options of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamcap.cli import app
from streamcap.errors import InputError
from streamcap.service.node import NodeOptions

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

FILE = """
server: {port: 0, token: "${NODE_TOKEN}", every: 0.5, out: OUT, keep_files: 3, interim_rate: 0}
cluster:
  nats: ["nats://node:${NATS_PASSWORD}@127.0.0.1:9"]
  roles: ingest,engine,gateway,recorder
  site: roof
  capacity: 7
models:
  fast: {model: mini}
  other: {model: mini, precision: fp32}
streams:
  door: {url: "scenes:?size=64x64", every: 2, model: other}
  yard: {url: "rtsp://user:${NODE_TOKEN}@192.0.2.1/s"}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NODE_TOKEN", "t0ken")
    monkeypatch.setenv("NATS_PASSWORD", "p4ss")
    path = tmp_path / "node.yaml"
    path.write_text(FILE.replace("OUT", str(tmp_path / "out")))
    return path


def options_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> NodeOptions:
    """What the command would run with."""
    seen: list[NodeOptions] = []
    monkeypatch.setattr("streamcap.service.node.run_node", lambda options, *_, **__: options)
    monkeypatch.setattr("streamcap.cli.service.node.run_service", seen.append)
    done = CliRunner().invoke(app, ["node", *arguments], catch_exceptions=False)
    assert seen, done.output
    return seen[0]


def test_node_takes_options_models_and_streams_of_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(monkeypatch, "--config", str(file), "--capacity", "9")
    serve = options.serve
    assert options.cluster.servers == ("nats://node:p4ss@127.0.0.1:9",)
    assert options.roles == {"ingest", "engine", "gateway", "recorder"}
    assert (options.cluster.site, options.capacity) == ("roof", 9), "the command line wins"
    assert options.recorder is not None and options.recorder.rotation.keep_files == 3
    assert serve.server.publish_tokens == {"t0ken"} and serve.stream_options.every == 0.5
    assert serve.engine.interim_interval == 0
    assert list(serve.models) == ["fast", "other"] and serve.models["other"].precision == "fp32"
    assert serve.streams["door"].settings.model == "other"
    assert serve.streams["yard"].url == "rtsp://user:t0ken@192.0.2.1/s"


def test_stream_of_the_command_line_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = options_of(monkeypatch, "--config", str(file), "door=scenes:").serve
    assert serve.sources == [("door", "scenes:")] and list(serve.streams) == ["yard"]


@pytest.mark.parametrize(
    ("wrong", "line", "reason"),
    [
        ("site: roof", "  site: a.b", "letters, digits"),
        ("capacity: 7", "  capacity: 0", "greater than or equal to 1"),
        ("site: roof", "  sight: roof", "unknown key; use capacity"),
        ("site: roof", "  nats_ca: /no/such/file", "no such file"),
    ],
)
def test_wrong_option_is_one_line(file: Path, wrong: str, line: str, reason: str) -> None:
    text = file.read_text()
    file.write_text(text.replace(f"  {wrong}", line))
    error = CliRunner().invoke(app, ["node", "--config", str(file)]).exception
    number = text.splitlines().index(f"  {wrong}") + 1
    assert isinstance(error, InputError)
    assert f"node.yaml:{number}: " in str(error) and reason in str(error)
    assert "p4ss" not in str(error) and "t0ken" not in str(error)
