"""`streamcap bench` as it is typed."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

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
