"""SRT and WebVTT are judged by ffprobe, which we did not write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.captions.cue import Cue
from streamcap.captions.event import encode
from streamcap.captions.formats import jsonl, srt, vtt
from tests.captions.fakes import caption
from tests.ffprobe import subtitle_times

CUES = [
    Cue(0, 1040, "a red car drives on a road"),
    Cue(1040, 2500, "two <b>white</b> dogs & a cat --> run across the wide green grass"),
    Cue(3_600_000 * 101, 3_600_000 * 101 + 1, "a boat"),
]


@pytest.mark.parametrize("render", [srt.render, vtt.render], ids=["srt", "vtt"])
def test_ffprobe_reads_exact_cue_times(tmp_path: Path, render) -> None:
    path = tmp_path / f"x.{render.__module__.rpartition('.')[2]}"
    path.write_text(render(CUES), encoding="utf-8")
    assert subtitle_times(path) == [(cue.start_ms, cue.end_ms) for cue in CUES]


def test_empty_caption_is_a_cue(tmp_path: Path) -> None:
    path = tmp_path / "x.srt"
    path.write_text(srt.render([Cue(0, 1000, ""), Cue(1000, 2000, "a dog")]), encoding="utf-8")
    assert subtitle_times(path) == [(0, 1000), (1000, 2000)]
    assert [block.count("\n") for block in path.read_text().strip().split("\n\n")] == [2, 2]


def test_hours_do_not_wrap() -> None:
    assert srt.timestamp(3_600_000 * 101 + 61_001) == "101:01:01,001"
    assert vtt.timestamp(3_600_000 * 101 + 61_001) == "101:01:01.001"


def test_text_cannot_forge_a_cue_time() -> None:
    text = "00:00:01,000 --> 00:00:02,000"
    assert srt.render([Cue(0, 1, text)]).count("-->") == 1
    assert vtt.render([Cue(0, 1, text)]).count("-->") == 1


def test_jsonl_round_trip() -> None:
    event = encode(41, caption("ein Mädchen läuft"))
    again = jsonl.parse(event.text)
    assert again is not None
    assert encode(again.seq, again.payload).text == event.text


@given(st.text())
def test_invalid_jsonl_line_is_skipped(line: str) -> None:
    assert jsonl.parse(line) is None


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*json.loads(encode(41, caption()).text), "x"]), VALUES))
def test_jsonl_line_with_wrong_types_is_skipped(values: dict[str, object]) -> None:
    event = jsonl.parse(json.dumps(json.loads(encode(41, caption()).text) | values))
    if event is not None:
        encode(event.seq, event.payload)


def test_deeply_nested_jsonl_line_is_skipped() -> None:
    assert jsonl.parse("[" * 100_000) is None


@given(st.integers(0, 400))
def test_truncated_jsonl_line_is_skipped(length: int) -> None:
    whole = encode(41, caption()).text
    assert jsonl.parse(whole[: min(length, len(whole) - 1)]) is None


def test_finals_are_read_in_order() -> None:
    wrap_lines = [encode(n, caption(number=n, is_final=n != 2)).text for n in range(1, 5)]
    read = jsonl.finals([*wrap_lines, wrap_lines[0][:40]])
    assert [(event.seq, said.id) for event, said in read] == [(1, "door-1"), (3, "door-3"), (4, "door-4")]
