"""Parsers of untrusted data reject invalid input with one line, and do nothing else."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from streamcap.captions.cue import Cue, merge_cues
from streamcap.captions.event import Status, StreamState, encode
from streamcap.captions.event_log import EventLog
from streamcap.captions.formats import hls, jsonl, srt, vtt
from streamcap.captions.formats import json as json_format
from streamcap.captions.track import CaptionTrack
from streamcap.errors import InputError
from streamcap.media.sources import check_url
from streamcap.server.errors import answer
from streamcap.server.feed.query import event_number, read_query
from streamcap.server.feed.sse import event_text
from streamcap.server.feed.websocket import text_frame
from streamcap.server.http.log_filter import LogFilter
from streamcap.server.ice import IceServer
from streamcap.server.source_policy import check_scheme
from streamcap.server.webrtc.session import check_offer
from streamcap.streams.counters import Counters, parse_counters
from streamcap.streams.options import check_name
from streamcap.streams.stream_set import name_from_url
from tests.captions.fakes import LATENCY, at, caption
from tests.fuzz import grammar
from tests.fuzz.budget import fuzz

pytestmark = pytest.mark.slow


def one_line(error: InputError | HTTPException) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 8000


@fuzz(0.1, 50)
@given(grammar.JSONL, st.booleans())
def test_jsonl(data: bytes, is_tail: bool) -> None:
    parsed = jsonl.parse_lines(data, stream="door", is_tail=is_tail)
    assert (parsed.skipped > 0) == (parsed.first_skipped > 0) == bool(parsed.reason)
    assert len(parsed.reason) < 300
    feed, track = EventLog("door"), CaptionTrack("door", every=1.0)
    feed.refill((event for event, _ in parsed.finals), 1)
    for event, final in parsed.finals:
        json.loads(event.text, parse_constant=lambda name: 1 / 0)
        assert math.isfinite(final.start) and final.start <= final.end
        track.restore(final)
    if track.last is not None:
        track.extend(at(track.end))
    srt.render(track.cues), vtt.render(track.cues)
    window = hls.playlist_window(track.cues, round(track.end * 1000), ended=True)
    assert len(hls.playlist(window, "x" * 1000)) < 2_000_000


@fuzz(0.05, 25)
@given(grammar.VTT)
def test_vtt(data: bytes) -> None:
    times = vtt.parse_times(data.decode(errors="replace"))
    assert all(0 <= start < end for start, end in times)
    assert times == sorted(times, key=lambda time: time[0])


STATE = st.fixed_dictionaries(
    {},
    optional={
        "version": st.just(1) | st.integers(),
        "stream": st.just("door") | grammar.WORD,
        **{key: st.integers() | st.floats() | st.none() | grammar.WORD for key in ("seq", "caption", "epoch", "time")},
    },
)


@fuzz(0.02, 25)
@given(st.binary(max_size=300) | STATE.map(lambda state: json.dumps(state).encode()))
def test_state_file(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert parse_counters(data, "door").covers(Counters())


@fuzz(0.08, 50)
@given(grammar.URL)
def test_source_url(url: str) -> None:
    for check in (check_url, lambda text: check_scheme(text, allow_local=False)):
        try:
            check(url[:2048])
        except (InputError, HTTPException) as error:
            one_line(error)
        else:
            with contextlib.suppress(ValueError):  # a host that is none
                check_name(name_from_url(url[:2048]))


@fuzz(0.05, 25)
@given(grammar.QUERY, grammar.WORD)
def test_feed_query(query: str, number: str) -> None:
    for read in (lambda: read_query(QueryParams(query)), lambda: event_number(number), lambda: check_name(number)):
        try:
            read()
        except InputError as error:
            one_line(error)
    assert "\n" not in answer(400, query).body.decode()


@fuzz(0.03, 25)
@given(grammar.SDP)
def test_sdp(sdp: bytes) -> None:
    with contextlib.suppress(HTTPException):
        check_offer(sdp.decode(errors="replace"), directions=("sendonly",))


@fuzz(0.02, 25)
@given(
    st.builds(
        lambda *parts: "".join(parts),
        st.sampled_from(["stun:", "turn:", "turns:", "x:", ""]),
        st.sampled_from(["", "u:p@", "u@", "%00:%ff@"]),
        grammar.WORD,
        st.sampled_from(["", ":3478", ":99999", "?transport=udp"]),
    )
)
def test_ice_server(text: str) -> None:
    try:
        assert IceServer.parse(text).link.isprintable()
    except InputError as error:
        one_line(error)


@fuzz(0.03, 25)
@given(grammar.TARGET)
def test_log_line(target: str) -> None:
    assert len(LogFilter({"s3cret"}).masked(f"GET {target}?token=s3cret&%74oken=s3cret")) <= 600


@fuzz(0.15, 60)
@given(grammar.ANY_TEXT, grammar.ANY_TEXT)
def test_caption_text_in_every_format(first: str, second: str) -> None:
    track = CaptionTrack("door", every=1.0)
    for number, text in enumerate((first, second)):
        track.final(at(3.0 * number), text, -0.1, LATENCY)
    for cues in (track.cues, list(merge_cues([Cue(0, 1000, first), Cue(3000, 4000, second)]))):
        for text in (srt.render(cues), vtt.render(cues), hls.segment(cues, 0)):
            assert text.encode().count(b"-->") == len(cues)
            assert "\x00" not in text and not any(line != line.strip("\r") for line in text.split("\n"))
        assert vtt.parse_times(vtt.render(cues)) == [(cue.start_ms, cue.end_ms) for cue in cues]
        # Every cue is one block: no text ends it early.
        assert len(srt.render(cues).strip("\n").split("\n\n")) == max(1, len(cues))
        assert [entry["start"] for entry in json.loads(json_format.render(cues).encode())] == [
            srt.timestamp(cue.start_ms) for cue in cues
        ]
    for payload in (caption(first), Status("door", StreamState.FAILED, first)):
        event = encode(7, payload)
        assert text_frame(event.text).endswith(event.text.encode())
        assert event_text(event).splitlines() == ["id: 7", f"data: {event.text}", ""]
        assert json.loads(event.text)["seq"] == 7
