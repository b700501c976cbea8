"""Names, and conversion."""

from __future__ import annotations

import json
import socket
import sys
import threading
import types
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from typer.testing import CliRunner

from streamcap import load_captioner
from streamcap.captioner.checkpoints.convert import convert_checkpoint
from streamcap.captioner.reachability import is_reachable
from streamcap.captioner.registry import (
    MODELS,
    cached,
    download,
    find_directory,
    find_tokenizer,
    find_vision,
    mini_directory,
)
from streamcap.cli.models import app
from streamcap.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", [*sorted(set(MODELS) - {"mini"}), "someone/some-model"])
def test_offline_download_fails_in_one_line(name: str) -> None:
    entry = MODELS.get(name)
    if entry is not None and cached(entry) is not None:
        pytest.skip(f"{name} is on this machine")
    with pytest.raises(InputError) as error:
        load_captioner(name, device="cpu")
    message = str(error.value)
    assert "\n" not in message and "HF_HUB_OFFLINE" in message and "download" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "streamcap models"),
        ("", "is empty"),
        ("a/b.pt", "no such"),
        ("a" * 300, "File name too long"),
        ("~nobody-of-this-name/a.pt", "no such"),
    ],
)
def test_unknown_model_name(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_captioner(name, device="cpu")


@pytest.mark.parametrize("name", ["", "~nobody-of-this-name/clip", "a" * 300, "no-such-directory"])
def test_unknown_part_is_named(name: str) -> None:
    for find, what in ((find_vision, "vision tower"), (find_tokenizer, "tokenizer")):
        with pytest.raises(InputError, match=rf"no such {what}|File name too long"):
            find(name)
    with pytest.raises(InputError, match=r"no such GPT-2 directory|File name too long"):
        find_directory(name, "GPT-2")


def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "gdown", types.ModuleType("gdown"))
    monkeypatch.setattr("streamcap.captioner.registry.is_reachable", lambda url: True)
    with pytest.raises(InputError, match="this directory cannot be made"):
        load_captioner("videocaptioner-s", device="cpu")


def test_downloaded_file_is_found_in_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "videocaptioner-s.pt").write_bytes((GOLDEN / "videocaptioner_net.pt").read_bytes())
    (tmp_path / "cache" / "videocaptioner-s.json").write_bytes((GOLDEN / "videocaptioner_net.json").read_bytes())
    assert load_captioner("videocaptioner-s", device="cpu").info["family"] == "videocaptioner"
    assert cached(MODELS["videocaptioner-s"])


def test_nyu_json_is_found_for_epoch_file(tmp_path: Path) -> None:
    (tmp_path / "msrvtt_prefix-009.pt").write_bytes((GOLDEN / "nyu_video_cross.pt").read_bytes())
    (tmp_path / "msrvtt_prefix.json").write_bytes((GOLDEN / "nyu_video_cross.json").read_bytes())
    captioner = load_captioner(tmp_path / "msrvtt_prefix-009.pt", device="cpu", precision="fp32")
    case = json.loads((GOLDEN / "nyu_video_cross.json").read_text())["cases"][0]
    assert captioner.caption_embeddings([case["image_embedding"]])[0].tokens == case["greedy"]


def test_defaults_without_json(tmp_path: Path) -> None:
    for name, family in (
        ("clipcap_mlp", "clipcap"),
        ("clipcap_linear", "clipcap"),
        ("clipcap_transformer", "clipcap"),
        ("nyu_video_transformer", "nyu-video"),
        ("nyu_video_mlp", "nyu-video"),
        ("videocaptioner_net", "videocaptioner"),
    ):
        (tmp_path / f"{name}.pt").write_bytes((GOLDEN / f"{name}.pt").read_bytes())
        captioner = load_captioner(tmp_path / f"{name}.pt", device="cpu", precision="fp32")
        cases = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
        assert captioner.info["family"] == family
        for case in cases[:3]:
            embedding = case.get("image_embedding") or case["pooler_output"]
            expected = case.get("greedy") or case["tokens"]
            assert captioner.caption_embeddings([embedding])[0].tokens == expected


def test_training_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    weights = torch.load(GOLDEN / "videocaptioner_net.pt", weights_only=True)
    torch.save({"epoch": 3, "model_state_dict": weights, "optimizer_state_dict": {"lr": 0.1}}, tmp_path / "wrapped.pt")
    case = json.loads((GOLDEN / "videocaptioner_net.json").read_text())["cases"][1]
    captioner = load_captioner(tmp_path / "wrapped.pt", device="cpu", precision="fp32")
    assert captioner.caption_embeddings([case["pooler_output"]])[0].tokens == case["tokens"]


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.pt")))
def test_converted_checkpoint_gives_same_captions(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["convert", str(GOLDEN / f"{name}.pt"), str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bytes"] > 100_000
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    captioner = load_captioner(tmp_path / "out", device="cpu", precision="fp32")
    for case in json.loads((GOLDEN / f"{name}.json").read_text())["cases"][:2]:
        embedding = case.get("image_embedding") or case["pooler_output"]
        assert captioner.caption_embeddings([embedding])[0].tokens == (case.get("greedy") or case["tokens"])
    later_prefix = convert_checkpoint(tmp_path / "out", tmp_path / "twice")
    assert later_prefix.family == captioner.info["family"]


def test_failed_conversion_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no")
    (tmp_path / "full").mkdir()
    with pytest.raises(InputError, match="already exists"):
        convert_checkpoint(GOLDEN / "clipcap_mlp.pt", tmp_path / "full")
    with pytest.raises(InputError, match="not a PyTorch checkpoint"):
        convert_checkpoint(tmp_path / "bad.pt", tmp_path / "out")
    with pytest.raises(InputError, match="cannot be written"):
        convert_checkpoint(GOLDEN / "clipcap_mlp.pt", tmp_path / "bad.pt" / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.pt", "full"]


def test_list_contains_every_model() -> None:
    rows = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(row["license"] and row["megabytes"] for row in rows)
    assert all(row["good_for"] and row["quality"] and row["name"] in row["command"] for row in rows)
    shown = CliRunner().invoke(app, [], env={"COLUMNS": "80"})
    assert all(name in shown.stdout for name in MODELS)
    assert shown.stdout.splitlines()[0].split("  ")[0] == "name"
    assert "--model NAME" in shown.stdout


def test_quality_of_mini_is_what_its_page_says() -> None:
    figure = MODELS["mini"].quality.removeprefix("CIDEr ").removesuffix(" on Flickr8k")
    assert f"CIDEr {figure}" in (mini_directory() / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["weights.pt", None])
def test_hub_out_of_reach_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: str | None
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.socket() as taken:
        # Bound and not listening: a connection is refused.
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError) as error:
            download("someone/some-model", file)
    message = str(error.value)
    assert "\n" not in message
    assert "the hub is unreachable; download it on another machine" in message
    assert caplog.records == []


def test_is_reachable_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(address: tuple[str, int], timeout: float) -> socket.socket:
        released.wait(30)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not is_reachable("https://a-name-whose-lookup-hangs.invalid", timeout=0.05)
    released.set()


def test_is_reachable_asks_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    contacted = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        contacted.append(address)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert is_reachable("https://hub.example")
    monkeypatch.delenv("https_proxy")
    assert is_reachable("https://hub.example")
    assert contacted == [("proxy.example", 3128), ("hub.example", 443)]
