"""Names that users give, as paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcap.errors import InputError
from streamcap.local_path import find_local


@pytest.mark.parametrize("name", ["", "~nobody-of-this-name/model.pt", "a\0b", "missing.pt"])
def test_missing_path_is_none(name: str) -> None:
    assert find_local(name) is None


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.pt").touch()
    assert find_local("~/model.pt") == tmp_path / "model.pt"


def test_name_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="File name too long"):
        find_local("a" * 300)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(InputError, match=r"private/model\.pt: Permission denied"):
        find_local("private/model.pt")
