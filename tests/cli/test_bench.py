"""`streamcap bench` as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamcap.bench import decode
from streamcap.captioner import quantized
from streamcap.cli import app
from streamcap.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "0"], "--frames 0: at least 1"),
        (["--device", "cuda:77"], "device 'cuda:77' is not there"),
        (["--device", "cpu", "--precision", "fp16"], "fp16 is not to be had on cpu"),
    ],
)
def test_wrong_use_is_told_before_anything_is_measured(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_int8_is_left_out_where_torch_has_no_products_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measure(device: object, *, precisions: list[str], **others: Any) -> None:
        asked.append(precisions)
        raise InputError("enough")

    monkeypatch.setattr(quantized, "engine", lambda: None)
    monkeypatch.setattr(decode, "measure_decode", measure)
    assert str(CliRunner().invoke(app, ["bench", "--device", "cpu"]).exception) == "enough"
    assert asked == [["fp32"]]
    assert "FBGEMM" in str(CliRunner().invoke(app, ["bench", "--device", "cpu", "--precision", "int8"]).exception)


def test_what_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(decode, "measure_decode", None)
    out = str(tmp_path / "file" / "out")
    assert f"{out}: this directory cannot be made" in str(CliRunner().invoke(app, ["bench", "--out", out]).exception)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = str(CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "new")]).exception)
    assert "pip install 'streamcap[bench]'" in said
    assert not (tmp_path / "new").exists()
