"""Files of an earlier run that something else has changed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from streamcap.captions.event import encode
from streamcap.streams.storage.caption_files import LOST_NUMBERS, CaptionFiles
from tests.captions.fakes import caption


def final(seq: int) -> str:
    return encode(seq, caption(number=seq, start=float(seq))).text


def changed(**values: object) -> str:
    return json.dumps(json.loads(final(9)) | values)


HOSTILE_LINES = {
    "nan": changed(start=float("nan")),
    "overflow": final(9).replace('"end":10.0', '"end":1e999'),
    "long id": changed(id="door-" + "9" * 5000),
    "surrogate": changed(text="\ud800"),
    "many words": changed(text="a " * 200_000),
    "other stream": changed(stream="yard", id="yard-1"),
    "not json": "\x00" * 100,
}


@pytest.mark.parametrize("line", HOSTILE_LINES.values(), ids=HOSTILE_LINES)
def test_hostile_line_is_skipped_and_named(tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture) -> None:
    files = CaptionFiles(tmp_path, "door")
    files.append([final(1), line, final(10)])
    with caplog.at_level(logging.WARNING):
        history = files.load_history(3600.0)
    assert [event.seq for event in history.finals] == [1, 10]
    assert [shown.id for shown in history.shown] == ["door-1", "door-10"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{files.jsonl}: 1 lines skipped, the first is line 2: ")
    assert len(warning) < 500


def test_line_number_counts_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcap.streams.storage.caption_files.TAIL_BYTES", 1000)
    files = CaptionFiles(tmp_path, "door")
    files.append([*(final(seq) for seq in range(1, 101)), "{}", final(101)])
    with files.jsonl.open("a") as file:
        file.write(final(102)[:30])
    assert files.load_history(1.0).finals[-1].seq == 101
    assert "2 lines skipped, the first is line 101: " in caplog.text
    assert files.jsonl.read_text().endswith(final(102)[:30] + "\n")


@pytest.mark.parametrize(
    "text", ["9" * 5000, "{}", "\x00", '{"version": 1, "stream": "door", "seq": 1e999}', "[" * 5000, ""]
)
def test_hostile_vtt_and_state_files_are_ignored(tmp_path: Path, text: str) -> None:
    files = CaptionFiles(tmp_path, "door")
    files.append([final(3)])
    files.vtt.write_text(f"WEBVTT\n\n00:00:02.000 --> {'9' * 5000}:00:00.000\nx\n\n00:00:03.000 --> 00:00:08.000\nx\n")
    files.state.write_text(text)
    history = files.load_history(3600.0)
    assert (history.counters.seq, history.shown[0].end) == (4 + LOST_NUMBERS, 8.0)
