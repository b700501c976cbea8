"""Configuration files: what they set, and one line with its place for everything that is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from streamcap.cli.config import json_schema
from streamcap.cli.service.file_flags import file_flags
from streamcap.cli.service.serve_options import load_checked
from streamcap.config.config import Config, load_config
from streamcap.config.problems import ConfigError
from streamcap.engine.model_settings import ModelSettings
from streamcap.streams.settings import StreamSettings

GOOD = """
server: {host: 127.0.0.1, port: 8642, token: "${DOOR_PASSWORD}", every: 2, ice_server: ["stun:stun.example.org:3478"]}
models:
  fast: {model: mini}
  talker:
    model: "openai:qwen2.5-vl"
    url: "http://127.0.0.1:11434/v1"
    prompt: "Describe what happens, in one sentence."
    fallback: fast
    in_flight: 4
streams:
  door: {url: "rtsp://user:${DOOR_PASSWORD}@192.168.1.20/s1", every: 1, model: talker, mask: [[0,0],[0.3,0],[0.3,0.4]]}
  yard: {url: "scenes:"}
"""
SECRET = "hunter2-Kx9"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", SECRET)
    monkeypatch.delenv("STREAMCAP_TOKEN", raising=False)


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "cams.yaml"
    path.write_text(text)
    return load_checked(path)


def test_contract_file_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.server == {
        "host": "127.0.0.1", "port": 8642, "token": SECRET, "every": 2, "ice_server": ["stun:stun.example.org:3478"],
    }  # fmt: skip
    assert config.model_settings(ModelSettings(device="cpu")) == {
        "fast": ModelSettings(device="cpu"),
        "talker": ModelSettings(
            model="openai:qwen2.5-vl", device="cpu", url="http://127.0.0.1:11434/v1", fallback="fast", in_flight=4,
            prompt="Describe what happens, in one sentence.",
        ),
    }  # fmt: skip
    mask = (((0.0, 0.0), (0.3, 0.0), (0.3, 0.4)),)
    assert config.streams["door"].settings == StreamSettings(every=1, model="talker", mask=mask)
    assert config.streams["door"].url == f"rtsp://user:{SECRET}@192.168.1.20/s1"
    assert config.streams["yard"].settings == StreamSettings()
    assert SECRET not in repr(config)


def test_empty_file_sets_nothing(tmp_path: Path) -> None:
    config = load(tmp_path, "# nothing yet\nserver:\nstreams:\n")
    assert (config.server, config.models, config.streams) == ({}, {}, {})


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("sever: {}", 1, "sever: unknown key; did you mean server?"),
        ("server:\n  prt: 1", 2, "server.prt: unknown key; did you mean port?"),
        ("server:\n  stall-after: 1", 2, "server.stall-after: unknown key; did you mean stall_after?"),
        ("server: 3", 1, "server: must be a mapping"),
        ("server:\n  port: x", 2, "server.port: must be an integer"),
        ("server:\n  port: 70000", 2, "server.port: 70000: use 0 to 65535"),
        ("server:\n  every: 0", 2, "server.every: 0: must be 0.02"),
        ("server:\n  every: true", 2, "server.every: use a number"),
        ("server:\n  host: 0.0.0.0", 2, "server.host: 0.0.0.0: non-loopback addresses require"),
        ("server:\n  log_level: loud", 2, "server.log_level: must be 'debug', 'info'"),
        ("server:\n  quiet: perhaps", 2, "server.quiet: must be a boolean"),
        ("server:\n  interim_rate: 1001", 2, "server.interim_rate: must be less than or equal to 1000"),
        ("server:\n  out: 3", 2, "server.out: "),
        ("server:\n  origin: example.org", 2, "server.origin: must be a list"),
        ("server:\n  history: {days: 30}", 2, "server.history: not supported by this version"),
        ("alerts:\n  - {name: x}", 1, "alerts: not supported by this version"),
        ("mqtt: {url: 'mqtt://h'}", 1, "mqtt: not supported by this version"),
        ("models:\n  fast: {model: mini, modle: x}", 2, "models.fast.modle: unknown key; did you mean model?"),
        ("models:\n  fast: {}", 2, "models.fast: model is missing"),
        ("models:\n  a b: {model: mini}", 2, "models.a b: stream name"),
        ("models:\n  a: {model: mini, key: sk-1}", 2, "models.a.key: keys do not belong into this file"),
        ("models:\n  a: {model: mini,\n  url: 'http://h'}", 3, "models.a.url: only for openai:MODEL"),
        ("models:\n  a: {model: 'openai:x',\n  url: 'ftp://h'}", 3, "models.a.url: ftp://h: an http://"),
        ("models:\n  a: {model: 'openai:x', url: 'http://h',\n   key_env: NO_KEY}", 3, "models.a.key_env: the environ"),
        ("models:\n  a: {model: 'openai:x', url: 'http://h',\n   fallback: b}", 3, "models.a.fallback: no local model"),
        ("models:\n  a: {model: 'openai:x', url: 'http://h',\n   in_flight: 0}", 3, "models.a.in_flight: 0: 1 to 256"),
        ("streams: [door]", 1, "streams: must be a mapping"),
        ("streams:\n  door: 'scenes:'", 2, "streams.door: must be a mapping"),
        ("streams:\n  door: {every: 1}", 2, "streams.door: url is missing"),
        ("streams:\n  ../x: {url: 'scenes:'}", 2, "stream name '../x'"),
        ("streams:\n  door:\n    url: gopher://h", 3, "streams.door.url: gopher://h: no source has the scheme"),
        ("streams:\n  door:\n    url: /nowhere.mp4", 3, "no such file"),
        (
            "streams:\n  door:\n    url: 'scenes:'\n    evry: 1",
            4,
            "streams.door.evry: unknown key; did you mean every?",
        ),
        ("streams:\n  door:\n    url: 'scenes:'\n    every: 0", 4, "streams.door.every: must be greater than or equal"),
        ("streams:\n  door:\n    url: 'scenes:'\n    model: minni", 4, "no model is named 'minni'; did you mean mini?"),
        ("streams:\n  door:\n    url: 'scenes:'\n    prompt: 12", 4, "streams.door.prompt: must be text; put it in"),
        ("streams:\n  door:\n    url: 'scenes:'\n    prompt: ' '", 4, "streams.door.prompt: use 1 to 4000"),
        ("streams:\n  door:\n    url: 'scenes:'\n    decode: some", 4, "must be 'auto', 'all' or 'keyframes'"),
        ("streams:\n  door:\n    url: 'scenes:'\n    mask: [[0, 0], [1, 1]]", 4, "streams.door.mask.0: "),
        (
            "streams:\n  door:\n    url: 'scenes:'\n    mask:\n      - [[0, 0],\n         [1, 2],\n         [1, 0]]",
            6,
            "streams.door.mask.0.1.1: must be less than or equal to 1",
        ),
        ("streams:\n  door:\n    url: 'scenes:'\n    labels: {1st: a}", 4, "streams.door.labels: '1st'"),
        (
            "streams:\n  door:\n    url: 'scenes:'\n    min_confidence: 2",
            4,
            "streams.door.min_confidence: must be less",
        ),
    ],
)
def test_wrong_file_is_one_line_with_its_place(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert says in str(problem)
    assert str(problem).startswith(f"{tmp_path / 'cams.yaml'}:{line}: ") and "\n" not in str(problem)


def test_all_problems_are_reported_by_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "alerts: []\nserver: {prot: 1}\nstreams:\n  door: {url: 1}\n  yard: {evry: 1}\n")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 4, 5, 5]


def test_secrets_are_absent_from_problems(tmp_path: Path) -> None:
    text = GOOD.replace('url: "rtsp://', 'url: "gopher://').replace("8642", '"${DOOR_PASSWORD}"')
    for broken in (text, text.replace("port: ", "x: "), GOOD.replace("every: 2", 'root_path: "${DOOR_PASSWORD}/"')):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, broken)
        if "root_path" not in broken:  # no secret belongs there
            assert SECRET not in str(caught.value)


def test_variable_of_a_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("RACK_KEY", "from-environment")
    entry = 'model: "openai:x", url: "http://h/v1"'
    text = f"models:\n  a: {{{entry}, key_env: RACK_KEY}}\n  b: {{{entry}, key_file: {tmp_path}/key}}\n"
    models = load(tmp_path, text).model_settings(ModelSettings())
    assert (models["a"].key, models["b"].key) == ("from-environment", "from-file")


def test_every_option_of_serve_is_a_key_of_server() -> None:
    properties = json_schema()["$defs"]["Server"]["properties"]  # type: ignore[index]
    assert list(properties) == [flag.name for flag in file_flags() if flag.section == "server"]
    assert {"port", "token", "every", "out", "model", "quiet", "ice_server"} <= set(properties)
    assert all(entry["description"] for entry in properties.values())


def test_shipped_schema_is_current() -> None:
    shipped = json.loads((Path(load_config.__code__.co_filename).parent / "schema.json").read_text())
    assert shipped == json.loads(json.dumps(json_schema())), "streamcap config schema > streamcap/config/schema.json"


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_example_of_documentation_is_valid(tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCAP_TOKEN", "t-1")
    content = (Path(__file__).parents[2] / page).read_text()
    example = next(block for block in re.findall(r"^```yaml\n(.*?)^```", content, re.DOTALL | re.MULTILINE))
    config = load(tmp_path, example)
    assert {"door", "yard"} <= set(config.streams) and "fast" in config.models


def test_every_key_is_documented() -> None:
    content = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    definitions: Any = json_schema()["$defs"]
    keys = {*definitions["Model"]["properties"], *definitions["StreamEntry"]["properties"]}
    assert {key for key in keys if f"`{key}`" not in content} == set()
