from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.errors import InputError
from streamcap.streams.options import StreamOptions, check_name
from streamcap.streams.settings import check_every


@pytest.mark.parametrize("name", ["door", "cam-2", "A.b_c", "7", "x" * 64])
def test_valid_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a b", ".hidden", "-x", "x.", "con", "NUL.txt", "é", "a\nb", "x" * 65, "a\x00b"]
)
def test_invalid_names(name: str) -> None:
    with pytest.raises(InputError, match="stream name"):
        check_name(name)


@given(st.text(max_size=80))
def test_accepted_name_stays_in_its_directory(name: str) -> None:
    try:
        check_name(name)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert Path("/out", f"{name}.srt").resolve().parent == Path("/out")


@pytest.mark.parametrize("every", [0, -1, 0.001, 1e9, float("nan"), float("inf")])
def test_invalid_periods(every: float) -> None:
    with pytest.raises(InputError, match="every"):
        check_every(every)


def test_out_directory_is_created_and_checked(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    StreamOptions(out=out)
    assert list(out.iterdir()) == []


def test_unwritable_out_is_refused_in_one_line(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("x")
    with pytest.raises(InputError, match="cannot write in --out") as caught:
        StreamOptions(out=in_the_way)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/self").exists(), reason="needs /proc")
def test_out_on_refusing_file_system(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write in --out"):
        StreamOptions(out=Path("/proc/streamcap"))
