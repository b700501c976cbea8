from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from streamcap.captions.cue import Cue
from streamcap.captions.event import encode
from streamcap.streams.counters import Counters
from streamcap.streams.storage.caption_files import LOST_NUMBERS, LOST_SECONDS, CaptionFiles, FilesLockedError
from tests.captions.fakes import caption
from tests.file_limit import run_with_file_limit


def final(seq: int) -> str:
    return encode(seq, caption(number=seq, start=float(seq))).text


def test_history_is_empty_at_first_start(tmp_path: Path) -> None:
    load_history = CaptionFiles(tmp_path, "door").load_history(3600.0)
    assert load_history.finals == [] and load_history.counters == Counters()


def test_second_writer_is_refused(tmp_path: Path) -> None:
    first, second = CaptionFiles(tmp_path, "door"), CaptionFiles(tmp_path, "door")
    first.lock()
    with pytest.raises(FilesLockedError, match=r"door\.jsonl is being written by another"):
        second.lock()
    other = CaptionFiles(tmp_path, "yard")
    other.lock()
    other.unlock()
    first.unlock()
    first.unlock()
    second.lock()
    second.unlock()


def test_finals_are_restored_with_cue_ends(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door")
    files.append(
        [final(seq) for seq in (3, 10, 20, 30)]
    )  # each starts at the second of its number and lasts one second
    assert [caption.end for caption in files.load_history(3600.0).shown] == [4.0, 11.0, 21.0, 31.0]
    # Extended to 8 s; cut by a stop; equal neighbors in one cue; newer than the file.
    files.write_cues([Cue(3_000, 8_000, "a dog"), Cue(10_000, 10_400, "a cat"), Cue(15_000, 26_000, "a car " * 90)])
    assert [caption.end for caption in files.load_history(3600.0).shown] == [8.0, 10.4, 26.0, 31.0]
    files.write_cues([Cue(3_001, 400_123_456, "a dog")])
    assert [caption.end for caption in files.load_history(3600.0).shown] == [10.0, 20.0, 30.0, 400_123.456]
    files.vtt.write_text("WEBVTT\n\n")
    assert [caption.end for caption in files.load_history(3600.0).shown] == [4.0, 11.0, 21.0, 31.0]


def test_history_covers_subtitle_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.streams.storage.caption_files.TAIL_BYTES", 1000)
    files = CaptionFiles(tmp_path, "door")
    files.append([final(seq) for seq in range(1, 101)])
    assert len(files.load_history(1.0).finals) < 5
    for window, oldest in ((50.0, 51), (1e6, 1)):
        load_history = files.load_history(window)
        assert load_history.finals[0].seq <= oldest
        assert [event.seq for event in load_history.finals] == list(range(load_history.finals[0].seq, 101))


def test_state_outlives_rotation_of_the_jsonl(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door")
    kept = Counters(seq=8, caption=7, epoch=2, time=12.5)
    files.append([final(3), final(5)])
    files.write_counters(kept)
    assert CaptionFiles(tmp_path, "door").load_history(3600.0).counters == kept
    files.jsonl.rename(tmp_path / "door.jsonl.1")
    load_history = CaptionFiles(tmp_path, "door").load_history(3600.0)
    assert (load_history.finals, load_history.counters) == ([], kept)
    files.jsonl.touch()
    assert CaptionFiles(tmp_path, "door").load_history(3600.0).counters == kept


def test_state_is_never_less_than_the_finals(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door")
    files.write_counters(Counters(seq=2, caption=9, time=1.0))
    files.append([final(3), final(5)])
    assert CaptionFiles(tmp_path, "door").load_history(3600.0).counters == Counters(6, 9, 0, 6.0)


@pytest.mark.parametrize(
    "state",
    [
        None,
        b"",
        b"\xff\xfe",
        b"[" * 4000,
        b"1e999",
        b'{"version":1,"stream":"yard","seq":90000,"caption":9,"epoch":0,"time":1}',
        b'{"version":1,"stream":"door","seq":true,"caption":9,"epoch":0,"time":1}',
        b'{"version":1,"stream":"door","seq":1e3,"caption":9,"epoch":0,"time":1}',
        b'{"version":1,"stream":"door","seq":-5,"caption":9,"epoch":0,"time":1}',
        b'{"version":1,"stream":"door","seq":9007199254740993,"caption":9,"epoch":0,"time":1}',
        b'{"version":1,"stream":"door","seq":9,"caption":9,"epoch":0,"time":NaN}',
        b'{"version":1,"stream":"door","seq":9,"caption":9,"epoch":0,"time":1e999}',
        b'{"version":1,"stream":"door","seq":9,"caption":9,"epoch":0,"time":"\\ud800"}',
        b'{"version":1,"stream":"door","seq":' + b"9" * 4000 + b"}",
        b" " * 5000,
    ],
)
def test_broken_state_is_passed_over(tmp_path: Path, state: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    files = CaptionFiles(tmp_path, "door")
    if state is not None:
        files.state.write_bytes(state)
    assert files.load_history(3600.0).counters == Counters()
    files.append([final(3)])
    # Unknown: how much was published but not written.
    assert files.load_history(3600.0).counters == Counters(4, 4, 0, 4.0).ahead(LOST_NUMBERS, LOST_SECONDS)
    assert [record.getMessage().count("\n") for record in caplog.records] == ([] if state is None else [0, 0])


def test_truncated_last_line_is_closed_and_skipped(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door")
    files.append([final(1)])
    with files.jsonl.open("a") as file:
        file.write(final(2)[:50])
    assert [event.seq for event in CaptionFiles(tmp_path, "door").load_history(3600.0).finals] == [1]
    files.append([final(3)])
    assert [event.seq for event in CaptionFiles(tmp_path, "door").load_history(3600.0).finals] == [1, 3]


def test_no_subtitle_file_before_first_cue(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door")
    files.write_cues([])
    assert not files.srt.exists() and not files.vtt.exists()


@pytest.mark.slow
def test_readers_see_complete_files_only(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path, "door")
    short, long = [Cue(0, 1, "a dog")], [Cue(n, n + 1, "a dog") for n in range(2000)]
    files.write_cues(short)
    whole = {files.srt.read_text()}
    files.write_cues(long)
    whole.add(files.srt.read_text())
    done = threading.Event()

    def write() -> None:
        for _ in range(100):
            files.write_cues(short)
            files.write_cues(long)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(files.srt.read_text())
    thread.join()
    assert seen <= whole
    assert not list(tmp_path.glob(".*.partial"))


FULL_DISK = """
import json
from pathlib import Path
from streamcap.streams.storage.caption_files import CaptionFiles
files = CaptionFiles(Path(sys.argv[1]), "door")
files.append(["x" * 400])
limit_file_size()
try:
    files.append(["y" * 400])
except OSError as error:
    print(json.dumps({"errno": error.errno, "size": files.jsonl.stat().st_size}))
"""


def test_full_disk_leaves_no_partial_line(tmp_path: Path) -> None:
    done = run_with_file_limit(500, FULL_DISK, tmp_path)
    assert json.loads(done.stdout)["size"] == 401, done.stderr


def test_removed_directory_is_os_error(tmp_path: Path) -> None:
    files = CaptionFiles(tmp_path / "gone", "door")
    with pytest.raises(OSError, match="gone"):
        files.append([final(1)])
