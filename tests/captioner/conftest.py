"""Fixtures of the captioner's tests."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator

import pytest
import torch

from streamcap.captioner.kernels import build, loading


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are tiny: a second thread would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=["int8", "fp32"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(
    scope="session",
    params=["this CPU's vectors", *(pytest.param(name, marks=pytest.mark.slow) for name in ("avx2", "baseline"))],
)
def library(request: pytest.FixtureRequest, precision: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels compiled for this CPU, and the ready-built ones of a wheel."""
    found = loading.load_library(precision)
    assert found is not None
    if request.param == "this CPU's vectors":
        return found
    level = next(level for level in build.LEVELS["x86_64"] if level.name == request.param)
    target = tmp_path_factory.mktemp("library") / build.library_name(precision, level)
    compiler = shutil.which("cc")
    assert compiler is not None
    build.build(compiler, target, precision, *level.flags, "-Wall", "-Wextra", "-Werror")
    return ctypes.CDLL(str(target))
