"""A file is replaced as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamcap.atomic import atomic_write
from streamcap.errors import InputError, StreamcapError


def test_atomic_write_of_text_and_bytes(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.txt", "ä\n")
    atomic_write(tmp_path / "a.txt", b"\x00\x01")
    assert (tmp_path / "a.txt").read_bytes() == b"\x00\x01"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_failed_atomic_write_keeps_old_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="taken: cannot be written"):
        atomic_write(tmp_path / "taken", "new")
    with pytest.raises(InputError, match="cannot be written"):
        atomic_write(tmp_path / "missing" / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_no_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.atomic.open_regular", lambda *_, **__: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(StreamcapError, match="No space left on device") as caught:
        atomic_write(tmp_path / "a.txt", "new")
    assert not isinstance(caught.value, InputError)


def test_secret_file_is_new_whatever_lies_there(tmp_path: Path) -> None:
    atomic_write(tmp_path / "state", "{}", mode=0o600)
    leftover = tmp_path / ".state.partial"
    leftover.touch(0o644)
    with leftover.open() as reader:
        atomic_write(tmp_path / "state", "a password", mode=0o600)
        assert reader.read() == ""
    assert (tmp_path / "state").read_text() == "a password"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
