"""The build hook: what a wheel gets with and without a C compiler. `.ci/wheel` builds a real one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testbed.programs import require_package

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    require_package("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def initialize(module: ModuleType, version: str, directory: Path) -> dict[str, Any]:
    hook = module.KernelsBuildHook(str(ROOT), {}, None, None, str(directory), "wheel")
    data: dict[str, Any] = {"pure_python": True, "force_include": {}}
    hook.initialize(version, data)
    hook.finalize(version, data, "")
    return data


@pytest.mark.parametrize("reason", ["editable", "no compiler", "compiler fails"])
def test_wheel_without_kernels_is_for_any_platform(
    reason: str, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason != "editable":
        monkeypatch.setenv("CC", "no-such-compiler" if reason == "no compiler" else "false")
    data = initialize(module, "editable" if reason == "editable" else "standard", tmp_path)
    assert data == {"pure_python": True, "force_include": {}}


def test_wheel_has_each_library_and_a_platform(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nprintf "\\0GLIBC_2.28\\0" > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    data = initialize(module, "standard", tmp_path)
    names = {Path(name).name for name in data["force_include"].values()}
    assert {"fp32-avx2.so", "fp32-avx512.so", "int8-avx2.so", "int8-avx512.so", "int8-avx512_vnni.so"} <= names
    assert (data["pure_python"], data["tag"]) == (False, "py3-none-manylinux_2_28_x86_64")


def test_wheel_tag_names_the_newest_glibc(module: ModuleType, tmp_path: Path) -> None:
    old, new = tmp_path / "old.so", tmp_path / "new.so"
    old.write_bytes(b"ELF\0GLIBC_2.2.5\0GLIBC_2.14\0")
    new.write_bytes(b"ELF\0GLIBC_2.14\0GLIBC_2.34\0")
    assert module.platform_tag([old]).startswith("manylinux_2_17_")
    assert module.platform_tag([old, new]).startswith("manylinux_2_34_")
