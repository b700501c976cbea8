"""Rotation of `NAME.jsonl`: by size and age, over crashes, beside other programs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcap.captions.cue import Cue
from streamcap.captions.event import encode
from streamcap.errors import InputError
from streamcap.streams.counters import Counters
from streamcap.streams.options import StreamOptions
from streamcap.streams.storage.caption_files import CaptionFiles
from streamcap.streams.storage.file_rotation import CHECK_SECONDS, DAY_SECONDS, RotationOptions
from tests.captions.fakes import caption

SMALL = RotationOptions(rotate_bytes=4096)
"""About twelve finals."""
CAPTURED_AT = caption().captured_at


def final(seq: int) -> str:
    return encode(seq, caption(number=seq, start=float(seq))).text


class Clock:
    def __init__(self) -> None:
        self.now = CAPTURED_AT

    def __call__(self) -> float:
        return self.now


def parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("door.jsonl.*"))


def filed(directory: Path) -> list[int]:
    """The numbers of all finals in the files, oldest file first."""
    files = [*parts(directory), directory / "door.jsonl"]
    return [json.loads(line)["seq"] for path in files if path.exists() for line in path.read_text().splitlines()]


def test_file_is_rotated_at_its_size(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door", SMALL)
    for seq in range(1, 101):
        files.append([final(seq)])
    assert filed(tmp_path) == list(range(1, 101))
    assert len(parts(tmp_path)) > 6
    for path in (*parts(tmp_path), files.jsonl):
        assert path.stat().st_size <= 4096
    # Named by the last caption, so that the part of a caption is found without opening them.
    for path in parts(tmp_path):
        assert int(path.suffix[1:]) == json.loads(path.read_text().splitlines()[-1])["seq"]


def test_history_covers_window_over_rotations(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door", SMALL)
    for seq in range(1, 101):
        files.append([final(seq)])
    files.write_cues([Cue(1000 * seq, 1000 * seq + 400, "a dog") for seq in range(1, 101)])
    for window, oldest in ((1e6, 1), (50.0, 51)):
        history = CaptionFiles(tmp_path, "door", SMALL).load_history(window)
        seqs = [event.seq for event in history.finals]
        assert seqs == list(range(seqs[0], 101)) and seqs[0] <= oldest
        assert {round(one.end - one.start, 3) for one in history.shown} == {0.4}


def test_state_lost_after_rotation_repeats_no_number(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door", SMALL)
    while not parts(tmp_path):
        files.append([final(1)])
    files.jsonl.unlink()  # as if the process had been killed right after the rename
    assert CaptionFiles(tmp_path, "door", SMALL).load_history(1.0).counters.seq > 1


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True], ids=["before rename", "after rename"])
def test_kill_at_rotation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if after:
            rename(path, target)
        raise Killed

    published = 0
    for round_ in range(1, 4):
        files = CaptionFiles(tmp_path, "door", SMALL)
        history = files.load_history(1e6)
        assert [event.seq for event in history.finals] == list(range(1, published + 1))
        files.write_counters(Counters(seq=published + 1))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(Killed):
                while True:
                    files.append([final(published + 1)])
                    published += 1
        assert published == len(filed(tmp_path))
        if not after:
            CaptionFiles(tmp_path, "door", SMALL).append([final(published + 1)])
            published += 1
        assert len(parts(tmp_path)) == round_
    assert filed(tmp_path) == list(range(1, published + 1))


def test_parts_beyond_keep_files_are_removed(tmp_path: Path) -> None:
    clock = Clock()
    files = CaptionFiles(tmp_path, "door", RotationOptions(4096, keep_files=2), wall=clock)
    for seq in range(1, 101):
        files.append([final(seq)])
        files.write_counters(Counters(seq=seq + 1))
    assert len(parts(tmp_path)) == 2
    assert filed(tmp_path) == list(range(filed(tmp_path)[0], 101))


def test_days_are_rotated_and_old_ones_removed(tmp_path: Path) -> None:
    clock = Clock()
    files = CaptionFiles(tmp_path, "door", RotationOptions(keep_days=3), wall=clock)
    for day in range(10):
        files.append([final(day + 1)])
        os.utime(files.jsonl, (clock.now, clock.now))
        clock.now += DAY_SECONDS
        files.write_counters(Counters(seq=day + 2))
    # Rotated although nothing was written after the last one.
    assert not files.jsonl.exists()
    assert filed(tmp_path) == [8, 9, 10]


def test_restart_keeps_age_of_file(tmp_path: Path) -> None:
    clock = Clock()
    options = RotationOptions(keep_days=3)
    CaptionFiles(tmp_path, "door", options, wall=clock).append([final(1)])
    clock.now += DAY_SECONDS + 60
    files = CaptionFiles(tmp_path, "door", options, wall=clock)
    files.append([final(2)])
    assert [path.name for path in parts(tmp_path)] == ["door.jsonl.000000000001"]


def test_file_is_not_rotated_by_default_age(tmp_path: Path) -> None:
    clock = Clock()
    files = CaptionFiles(tmp_path, "door", wall=clock)
    files.append([final(1)])
    clock.now += 400 * DAY_SECONDS
    files.append([final(2)])
    files.write_counters(Counters())
    assert parts(tmp_path) == []


def test_clock_set_back_keeps_order_and_checks(tmp_path: Path) -> None:
    clock = Clock()
    files = CaptionFiles(tmp_path, "door", SMALL, wall=clock)
    for seq in range(1, 61):
        files.append([final(seq)])
        clock.now -= 10 * CHECK_SECONDS
    assert filed(tmp_path) == list(range(1, 61))
    assert [event.seq for event in files.load_history(1e6).finals] == list(range(1, 61))


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    others = ["door.jsonl.1", "door.jsonl.1.gz", "door.jsonl-20261127", "door.jsonl.000000000001.bak", "door2.jsonl"]
    others += ["xdoor.jsonl.000000000001", "door.jsonl.jsonl"]
    for name in others:
        (tmp_path / name).write_text("kept")
    files = CaptionFiles(tmp_path, "door", RotationOptions(4096, keep_files=0))
    for seq in range(1, 41):
        files.append([final(seq)])
        files.write_counters(Counters(seq=seq + 1))
    assert {name: (tmp_path / name).read_text() for name in others} == dict.fromkeys(others, "kept")
    assert len(list(tmp_path.glob("door.jsonl.0*"))) == 1


def test_existing_part_is_not_overwritten(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door", SMALL)
    taken = tmp_path / "door.jsonl.000000000099"
    taken.write_text("somebody's copy\n")
    for seq in range(1, 21):
        files.append([final(seq)])
    assert taken.read_text() == "somebody's copy\n"
    assert (tmp_path / "door.jsonl.000000000099-2").exists()


def test_refused_rotation_goes_on_and_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refused)
    files = CaptionFiles(tmp_path, "door", SMALL)
    for seq in range(1, 41):
        files.append([final(seq)])
    assert filed(tmp_path) == list(range(1, 41))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "cannot be rotated" in record.getMessage()


def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


WRITERS: dict[str, Callable[[CaptionFiles], object]] = {
    "door.jsonl": lambda files: files.append([final(2)]),
    ".door.srt.partial": lambda files: files.write_cues([Cue(0, 1, "a dog")]),
    "..door.state.partial": lambda files: files.write_counters(Counters()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_symlink_is_not_written_through(tmp_path: Path, name: str) -> None:
    target = tmp_path / "secret"
    target.write_text("mine")
    files = CaptionFiles(tmp_path / "out", "door")
    files.jsonl.parent.mkdir()
    files.append([final(1)])
    link(tmp_path / "out" / name, target)
    with pytest.raises(OSError, match="a symbolic link, which is not followed"):
        WRITERS[name](files)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("name", ["door.jsonl", "door.srt", "door.vtt", ".door.state", ".door.lock"])
def test_symlink_at_start_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(final(7) + "\n")
    (tmp_path / name).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=f"a symbolic link, which is not followed here; move it away: '.*{name}'"):
        CaptionFiles(tmp_path, "door").lock()


def test_symlinks_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(final(7) + "\n")
    (tmp_path / "door.jsonl.000000000007").symlink_to(tmp_path / "secret")
    files = CaptionFiles(tmp_path, "door")
    assert files.load_history(1e6).finals == []
    for path in (files.jsonl, files.vtt, files.state):
        link(path, tmp_path / "secret")
        with pytest.raises(OSError, match="a symbolic link"):
            files.load_history(1e6)
        path.unlink()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rotate_bytes": -1}, "--rotate-bytes -1"),
        ({"rotate_bytes": 10}, "--rotate-bytes 10"),
        ({"keep_days": 0}, "--keep-days 0"),
        ({"keep_days": float("nan")}, "--keep-days nan"),
        ({"keep_files": -1}, "--keep-files -1"),
    ],
)
def test_wrong_rotation_options_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        RotationOptions(**options)  # type: ignore[arg-type]


def test_probe_of_directory_follows_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / f".write-test-{os.getpid()}").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="a symbolic link"):
        StreamOptions(out=tmp_path)
    assert (tmp_path / "secret").read_text() == "mine"
