"""Which kernels a process runs on: ready-built ones, ones compiled on the machine, or torch alone."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from streamcap.captioner.kernels import build, loading
from streamcap.captioner.kernels.int8_torch import Int8Linear
from streamcap.captioner.kernels.precision import convert
from streamcap.errors import InputError
from tests.captioner.packed_layers import needs_compiler
from tests.captioner.tiny_models import ours, tower

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_loaded_library() -> Iterator[None]:
    loading.load_library.cache_clear()
    yield
    loading.load_library.cache_clear()


@pytest.fixture(scope="module")
def avx2_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ready") / "int8-avx2.so"
    avx2 = next(level for level in build.LEVELS["x86_64"] if level.name == "avx2")
    build.build("cc", path, "int8", *avx2.flags, "-O1")
    return path


@pytest.fixture
def ready_built(avx2_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of ready-built int8 kernels: real ones for AVX2, and a file that is no library for AVX-512."""
    monkeypatch.setattr(build, "READY_BUILT", tmp_path)
    (tmp_path / avx2_library.name).symlink_to(avx2_library)
    (tmp_path / "int8-avx512.so").write_text("no library")
    return tmp_path


@pytest.mark.slow
@needs_compiler
def test_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path / "cache"))
    assert loading.load_library("int8") is not None
    (file,) = (tmp_path / "cache" / "compiled").iterdir()
    loading.load_library.cache_clear()
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("compiled again"))
    assert loading.load_library("int8") is not None
    assert [file] == list((tmp_path / "cache" / "compiled").iterdir())


@needs_compiler
def test_best_ready_built_library_is_used(
    ready_built: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("compiled"))
    monkeypatch.setattr(loading, "_features", lambda: {"avx2", "fma"})
    assert loading.describe_kernels("int8") == "ready-built (avx2)"
    with caplog.at_level(logging.INFO, logger="streamcap"):
        library = loading.load_library("int8")
    assert library is not None and library._name == str(ready_built / "int8-avx2.so")
    assert "int8 kernels: ready-built (avx2)" in caplog.text


@needs_compiler
def test_broken_ready_built_library_is_skipped(
    ready_built: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "_features", lambda: set(build.LEVELS["x86_64"][1].features))
    assert loading.describe_kernels("int8") == "ready-built (avx512)"
    library = loading.load_library("int8")
    assert library is not None and library._name == str(ready_built / "int8-avx2.so")
    assert "ready-built (avx512), cannot be used" in caplog.text


def test_features_of_unlike_cores_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\nFeatures\t: fp asimd\n"
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert loading._features() == {"fp", "asimd"}


@needs_compiler
def test_kernels_bring_no_openmp_of_their_own(ready_built: Path) -> None:
    """The process has one OpenMP runtime, torch's; the library does not name one."""
    code = (
        "import ctypes, sys, torch\nfrom streamcap.captioner.kernels import loading\n"
        "loading.expose_openmp()\nctypes.CDLL(sys.argv[1])\n"
        "print(len({line.split()[-1] for line in open('/proc/self/maps') if loading._OPENMP.search(line.strip())}))"
    )
    library = str(ready_built / "int8-avx2.so")
    done = subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


def test_unknown_kind_of_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCAP_KERNELS", "fast")
    with pytest.raises(InputError, match=r"^STREAMCAP_KERNELS=fast: it is auto, compile or off$"):
        loading.load_library("int8")


@pytest.mark.parametrize("reason", ["turned off", "no compiler", "compiler fails", "a world-writable directory"])
def test_missing_library_falls_back_to_torch(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STREAMCAP_CACHE", str(tmp_path))
    if reason == "turned off":
        monkeypatch.setenv("STREAMCAP_KERNELS", "off")
        assert loading.describe_kernels("int8") == "none (STREAMCAP_KERNELS=off)"
    elif reason == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler")
        assert loading.describe_kernels("int8") == "none (no C compiler)"
    elif reason == "compiler fails":
        failing = tmp_path / "cc"
        failing.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "matmul.h:1: error: no AVX2" >&2\nexit 1\n')
        failing.chmod(0o755)
        monkeypatch.setenv("CC", str(failing))
    else:
        (tmp_path / "compiled").mkdir()
        (tmp_path / "compiled").chmod(0o777)
    with caplog.at_level(logging.INFO, logger="streamcap"):
        assert loading.load_library("int8") is None
    for precision, kind in (("int8", Int8Linear), ("fp32", nn.Linear)):
        gpt2, vision = (convert(load(), precision, CPU) for load in (ours, tower))
        assert type(gpt2.head) is kind and type(vision.get_submodule("layers.0.fc1")) is kind
    if reason == "compiler fails":
        assert "error: no AVX2" in caplog.text
        assert not list((tmp_path / "compiled").iterdir())
