"""`--keep-days` for the files of streams that no longer run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import pytest

from streamcap.captions.event import encode
from streamcap.streams.counters import Counters
from streamcap.streams.storage.caption_files import CaptionFiles
from streamcap.streams.storage.file_retention import FileRetention
from streamcap.streams.storage.file_rotation import DAY_SECONDS, RotationOptions
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captions.fakes import caption

KEEP_3 = RotationOptions(keep_days=3)
CAPTURED_AT = caption().captured_at
OLD = CAPTURED_AT
NOW = CAPTURED_AT + 5 * DAY_SECONDS


def now() -> float:
    return NOW


def write_part(directory: Path, stream: str, seq: int, modified: float) -> Path:
    """An older part, as a stream that ran leaves it."""
    CaptionFiles(directory, stream).write_counters(Counters(seq=seq + 1))
    part = directory / f"{stream}.jsonl.{seq:012d}"
    part.write_text(encode(seq, caption(stream=stream, number=seq)).text + "\n")
    os.utime(part, (modified, modified))
    return part


def test_old_parts_of_removed_stream_go(tmp_path: Path) -> None:
    old, young = write_part(tmp_path, "gone", 1, OLD), write_part(tmp_path, "gone", 2, NOW - 60)
    FileRetention(tmp_path, KEEP_3, wall=now).check()
    assert not old.exists() and young.exists()
    assert (tmp_path / ".gone.state").exists()  # numbers go on if the stream is added again


def test_last_file_of_removed_stream_goes(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "gone", KEEP_3)
    files.write_counters(Counters())
    files.append([encode(1, caption(stream="gone")).text])
    os.utime(files.jsonl, (OLD, OLD))
    FileRetention(tmp_path, KEEP_3, wall=now).check()
    assert [path.name for path in tmp_path.iterdir() if "jsonl" in path.name] == []


def test_running_stream_is_left_alone(tmp_path: Path) -> None:
    here, elsewhere = write_part(tmp_path, "here", 1, OLD), write_part(tmp_path, "elsewhere", 1, OLD)
    writer = CaptionFiles(tmp_path, "elsewhere")  # as another process does
    writer.lock()
    FileRetention(tmp_path, KEEP_3, wall=now).check(frozenset({"here"}))
    writer.unlock()
    assert here.exists() and elsewhere.exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    write_part(tmp_path, "gone", 1, NOW)
    others = {
        "gone.jsonl.000000000002": "somebody's copy\n",
        "gone.jsonl.1": encode(1, caption(stream="gone")).text,
        "no-state.jsonl.000000000001": encode(1, caption(stream="no-state")).text,
        "foreign.jsonl.000000000001": encode(1, caption(stream="foreign")).text,
        ".foreign.state": '{"window": "left"}',
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (OLD, OLD))
    FileRetention(tmp_path, KEEP_3, wall=now).check()
    assert {name: (tmp_path / name).read_text() for name in others} == others


def test_symlink_to_part_stays(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    target = write_part(elsewhere, "gone", 1, OLD)
    write_part(out, "gone", 2, NOW)
    (out / "gone.jsonl.000000000001").symlink_to(target)
    FileRetention(out, KEEP_3, wall=now).check()
    assert target.exists() and (out / "gone.jsonl.000000000001").is_symlink()


def test_refused_removal_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_part(tmp_path, "gone", 1, OLD)

    def refused(path: Path, mode: int = 0) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    retention = FileRetention(tmp_path, KEEP_3, wall=now)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        retention.check()
        retention.check()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "Permission denied" in record.getMessage()
    retention.check()
    assert not (tmp_path / "gone.jsonl.000000000001").exists()


async def test_watch_checks_while_streams_run(tmp_path: Path) -> None:
    gone, here = write_part(tmp_path, "gone", 1, OLD), write_part(tmp_path, "here", 1, OLD)
    task = asyncio.create_task(FileRetention(tmp_path, KEEP_3, wall=now).watch(lambda: ["here"]))
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while gone.exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert here.exists()


async def test_watch_ends_without_keep_days(tmp_path: Path) -> None:
    old = write_part(tmp_path, "gone", 1, OLD)
    await FileRetention(tmp_path, RotationOptions(), wall=now).watch(list)
    assert old.exists()
