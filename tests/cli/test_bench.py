"""`streamcap bench` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamcap.bench import decode
from streamcap.captioner.kernels import int8_torch
from streamcap.cli import app
from streamcap.errors import InputError

pytestmark = pytest.mark.slow  # loads torch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "--frames 0: at least 1"),
        (["--device", "cuda:77"], "device 'cuda:77' was not found"),
        (["--device", "cpu", "--precision", "fp16"], "fp16 is not supported on cpu"),
    ],
)
def test_invalid_options_are_refused_before_measuring(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_int8_is_omitted_without_torch_support(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measure(device: object, *, precisions: list[str], **others: Any) -> None:
        asked.append(precisions)
        raise InputError("enough")

    monkeypatch.setattr(int8_torch, "engine", lambda: None)
    monkeypatch.setenv("STREAMCAP_KERNELS", "off")
    monkeypatch.setattr(decode, "measure_decode", measure)
    assert str(CliRunner().invoke(app, ["bench", "--device", "cpu"]).exception) == "enough"
    assert asked == [["fp32"]]
    assert "FBGEMM" in str(CliRunner().invoke(app, ["bench", "--device", "cpu", "--precision", "int8"]).exception)


def test_unwritable_output_is_refused_before_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(decode, "measure_decode", None)
    out = str(tmp_path / "file" / "out")
    assert f"{out}: this directory cannot be made" in str(CliRunner().invoke(app, ["bench", "--out", out]).exception)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = str(CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "new")]).exception)
    assert "pip install '.[bench]'" in message
    assert not (tmp_path / "new").exists()
