"""SRT and WebVTT, checked with ffprobe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.captions.cue import Cue
from streamcap.captions.event import Status, StreamState, encode
from streamcap.captions.formats import hls, jsonl, srt, vtt
from streamcap.captions.formats import json as json_format
from streamcap.captions.text import MAX_TEXT_CHARACTERS
from streamcap.server.feed.sse import event_text
from streamcap.server.feed.websocket import text_frame
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


HOSTILE_TEXTS = [
    "a \ud800dog\udfff",
    "--> 00:00:01.000 --> 00:00:02.000",
    "-\u202e->",
    "a\x00b\x1b[31mc\x07",
    "one\u2028two\u2029three\x85four\r\n\r\nfive",
    "\u202egod a\u2066",
    "</c><b>&lt;&amp;]]>",
    "\n\n2\n00:00:00,000 --> 00:00:09,000\nforged\n",
    "x" * 100_000,
    "x " * 100_000,
    "\ufeff\ufffe\U0010ffff",
    "",
    "👩‍👩‍👧 ਪੰਜਾਬੀ العربية",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_any_text_is_one_cue_of_every_format(tmp_path: Path, text: str) -> None:
    cues = [Cue(0, 1000, text), Cue(2000, 3000, "a dog")]
    for render in (srt.render, vtt.render):
        path = tmp_path / f"x.{render.__module__.rpartition('.')[2]}"
        path.write_text(render(cues), encoding="utf-8", newline="\n")
        if text or render is srt.render:
            assert subtitle_times(path) == [(0, 1000), (2000, 3000)]
        assert path.read_text().count(" --> ") == 2
        assert max(map(len, path.read_text().split("\n"))) <= MAX_TEXT_CHARACTERS
    assert len(json.loads(json_format.render(cues).encode())) == 2
    assert hls.segment(cues, 0).encode().count(b"-->") == 2
    line = encode(1, caption(text)).text
    assert len(line.encode().decode().splitlines()) == 1
    assert isinstance(json.loads(line)["text"], str)


def test_cleaned_text_is_plain_for_sse_and_websocket() -> None:
    reason = encode(1, Status("door", StreamState.FAILED, "no file \udce9\u2028\x00\n x")).text
    assert json.loads(reason)["reason"] == "no file \ufffd x"
    event = encode(7, caption("a\u2028b\ud800"))
    assert text_frame(event.text).endswith(event.text.encode())
    assert event_text(event).splitlines() == ["id: 7", f"data: {event.text}", ""]


def test_jsonl_round_trip() -> None:
    event = encode(41, caption("ein Mädchen läuft"))
    again, payload = jsonl.parse(event.text.encode())
    assert (again, payload) == (event, event.payload)


@given(st.binary())
def test_parse_refuses_broken_line(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        jsonl.parse(line)


HOSTILE_VALUES = {
    "start": ["NaN", "Infinity", "1e999", "-1", '"1"', "true", "1e10", "null", "[]", "9" * 400],
    "end": ["NaN", "1e999", "12", "{}"],
    "seq": ["0", "-1", "1e3", "1.5", "true", "9" * 5000, "1" + "0" * 16, '"1"'],
    "epoch": ["-1", "0.5", "1e99", "null"],
    "revision": ["-1", "false", '"2"'],
    "id": ['"door-' + "9" * 5000 + '"', '"door-x"', '"door-١"', '"yard-1"', "7", '"door-"'],
    "text": ['"\\ud800"', "7", "null", '"' + "a " * 2001 + '"', '"' + "x" * 200_000 + '"'],
    "stream": ['"yard"', "null", '"' + "x" * 70 + '"'],
    "logprob": ["NaN", "1e999", '"x"', "true"],
    "confidence": ["NaN", "-0.1", "1.1", '"x"', "true"],
    "model": ["7", "[]", '"' + "x" * 5000 + '"'],
    "captured_at": ['"0001-01-01T00:00:00+14:00"', '"2026-11-20T23:46:01"', '"soon"', "1", '"9999-12-31T23:59:59Z"'],
    "latency_ms": ["1", "{}", '{"ingest":NaN,"queue":0,"encode":0,"decode":0,"total":0}'],
    "is_final": ["false", "1", "null"],
    "type": ['"extend"', "null"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in HOSTILE_VALUES.items() for value in values])
def test_parse_refuses_value_out_of_range(key: str, value: str) -> None:
    message = json.loads(encode(41, caption()).text)
    line = json.dumps(message | {key: "HERE"}).replace('"HERE"', value)
    with pytest.raises(ValueError, match=r"\w"):
        jsonl.parse(line.encode())


@given(st.sampled_from([*json.loads(encode(41, caption()).text)]))
def test_parse_refuses_missing_key(key: str) -> None:
    message = json.loads(encode(41, caption()).text)
    del message[key]
    if key not in ("logprob", "confidence", "model", "captured_at_source"):
        with pytest.raises(ValueError, match=f"{key} is missing|not a final"):
            jsonl.parse(json.dumps(message).encode())


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*json.loads(encode(41, caption()).text), "x"]), VALUES))
def test_parsed_event_is_encoded_anew(values: dict[str, object]) -> None:
    line = json.dumps(json.loads(encode(41, caption()).text) | values)
    try:
        event, payload = jsonl.parse(line.encode())
    except ValueError:
        return
    assert event == encode(event.seq, payload)
    assert "x" not in json.loads(event.text)


@pytest.mark.parametrize("line", ["[" * 60_000, "[" * 100_000, '{"a":' * 10_000], ids=["deep", "long", "objects"])
def test_parse_refuses_deep_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"nested|longer|JSON"):
        jsonl.parse(line.encode())


@given(st.integers(0, 400))
def test_parse_refuses_cut_line(length: int) -> None:
    whole = encode(41, caption()).text
    with pytest.raises(ValueError, match="JSON"):
        jsonl.parse(whole[: min(length, len(whole) - 1)].encode())


def test_parse_lines_names_first_skipped_line() -> None:
    wrap_lines = [encode(n, caption(number=n, is_final=n != 2)).text for n in range(1, 5)]
    data = "\n".join([*wrap_lines, "", wrap_lines[0][:40]]).encode()
    parsed = jsonl.parse_lines(data)
    assert [(event.seq, final.id) for event, final in parsed.finals] == [
        (1, "door-1"),
        (3, "door-3"),
        (4, "door-4"),
    ]
    assert (parsed.skipped, parsed.first_skipped, parsed.reason) == (2, 2, "not a final caption")
    tail = jsonl.parse_lines(data[30:], is_tail=True)
    assert (len(tail.finals), tail.skipped, tail.first_skipped) == (2, 2, 2)
    other = jsonl.parse_lines(data, stream="yard")
    assert (other.finals, other.skipped, other.reason) == ([], 5, "a caption of stream 'door'")


def test_vtt_times_out_of_range_are_skipped() -> None:
    good = [Cue(0, 1000, "a"), Cue(1000, 2500, "b")]
    hostile = [
        f"{'9' * 5000}:00:00.000 --> 00:00:02.000",
        f"00:00:00.000 --> {'9' * 5000}:00:00.000",
        "00:99:00.000 --> 00:00:02.000",
        "٠٠:00:00.000 --> 00:00:02.000",
        "00:00:02.000 --> 00:00:01.000",
        "00:00:00.500 --> 00:00:09.000",
    ]
    assert vtt.parse_times(vtt.render(good) + "\n\n".join(hostile)) == [(0, 1000), (1000, 2500)]
