"""Compiling the kernels on the machine, and running without them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from streamcap.captioner.kernels import build
from streamcap.captioner.kernels.int8_torch import Int8Linear
from streamcap.captioner.kernels.precision import convert
from tests.captioner.packed_layers import needs_compiler
from tests.captioner.tiny_models import ours, tower

CPU = torch.device("cpu")


@pytest.mark.slow
@needs_compiler
def test_library_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path / "cache"))
    build.load_library.cache_clear()
    try:
        assert build.load_library("int8") is not None
        (file,) = (tmp_path / "cache" / "compiled").iterdir()
        build.load_library.cache_clear()
        monkeypatch.setattr(build, "build", lambda *_: pytest.fail("compiled again"))
        assert build.load_library("int8") is not None
        assert [file] == list((tmp_path / "cache" / "compiled").iterdir())
    finally:
        build.load_library.cache_clear()


@pytest.mark.parametrize("reason", ["turned off", "no compiler", "compiler fails", "a world-writable directory"])
def test_missing_library_falls_back_to_torch(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path))
    if reason == "turned off":
        monkeypatch.setenv("STREAMCAP_COMPILE", "0")
    elif reason == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
    elif reason == "compiler fails":
        failing = tmp_path / "cc"
        failing.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "matmul.h:1: error: no AVX2" >&2\nexit 1\n')
        failing.chmod(0o755)
        monkeypatch.setenv("CC", str(failing))
    else:
        (tmp_path / "compiled").mkdir()
        (tmp_path / "compiled").chmod(0o777)
    build.load_library.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="streamcap"):
            assert build.load_library("int8") is None
        for precision, kind in (("int8", Int8Linear), ("fp32", nn.Linear)):
            gpt2, vision = (convert(load(), precision, CPU) for load in (ours, tower))
            assert type(gpt2.head) is kind and type(vision.get_submodule("layers.0.fc1")) is kind
        if reason == "compiler fails":
            assert "error: no AVX2" in caplog.text
            assert not list((tmp_path / "compiled").iterdir())
    finally:
        build.load_library.cache_clear()
