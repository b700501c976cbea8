"""The library that is compiled where it runs, and doing without it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from streamcap.captioner import compiled
from streamcap.captioner.precision import convert
from streamcap.captioner.quantized import Int8Linear
from tests.captioner.layers import needs_compiler
from tests.captioner.models import ours, tower

CPU = torch.device("cpu")


@needs_compiler
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path / "cache"))
    compiled.load_library.cache_clear()
    try:
        assert compiled.load_library("int8") is not None
        (file,) = (tmp_path / "cache" / "compiled").iterdir()
        compiled.load_library.cache_clear()
        monkeypatch.setattr(compiled, "build", lambda *_: pytest.fail("compiled again"))
        assert compiled.load_library("int8") is not None
        assert [file] == list((tmp_path / "cache" / "compiled").iterdir())
    finally:
        compiled.load_library.cache_clear()


@pytest.mark.parametrize("reason", ["turned off", "no compiler", "a compiler that fails", "a directory of everybody's"])
def test_without_the_library_torchs_products_are_used(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path))
    if reason == "turned off":
        monkeypatch.setenv("STREAMCAP_COMPILE", "0")
    elif reason == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif reason == "a compiler that fails":
        failing = tmp_path / "cc"
        failing.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "matmul.h:1: error: no AVX2" >&2\nexit 1\n')
        failing.chmod(0o755)
        monkeypatch.setenv("CC", str(failing))
    else:
        (tmp_path / "compiled").mkdir()
        (tmp_path / "compiled").chmod(0o777)
    compiled.load_library.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="streamcap"):
            assert compiled.load_library("int8") is None
        for precision, kind in (("int8", Int8Linear), ("fp32", nn.Linear)):
            gpt2, vision = (convert(load(), precision, CPU) for load in (ours, tower))
            assert type(gpt2.head) is kind and type(vision.get_submodule("layers.0.widen")) is kind
        if reason == "a compiler that fails":
            assert "error: no AVX2" in caplog.text
            assert not list((tmp_path / "compiled").iterdir())
    finally:
        compiled.load_library.cache_clear()
