from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.engine.remote import answer_stream
from streamcap.engine.remote.answer_stream import AnswerStream
from streamcap.engine.remote.failure import RemoteError
from tests.engine.remote import recorded


def read(content: bytes, cuts: list[int] | None = None) -> AnswerStream:
    answer = AnswerStream("sk-secret-1")
    at = 0
    for cut in sorted({min(cut, len(content)) for cut in cuts or []} | {len(content)}):
        answer.feed(content[at:cut])
        at = cut
    answer.end()
    return answer


@pytest.mark.parametrize("server", recorded.ALL)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_recorded_answer_is_read(server: str, line_end: str) -> None:
    answer = read(recorded.ALL[server].replace(b"\n", line_end.encode()))
    assert answer.text == "A man opens a door."
    assert (answer.usage.tokens_in, answer.usage.tokens_out) == (340, 6)
    assert answer.finished


@given(st.lists(st.integers(0, 1200), max_size=12), st.sampled_from(sorted(recorded.ALL)))
def test_cuts_between_packets_change_nothing(cuts: list[int], server: str) -> None:
    content = recorded.ALL[server].replace(b"door", "Tür — 門".encode()).replace(b"\n", b"\r\n")
    assert read(content, cuts).text == read(content).text


def test_comments_and_content_in_parts_are_accepted() -> None:
    part = json.dumps(
        {"choices": [{"delta": {"content": [{"type": "text", "text": "A man"}]}, "finish_reason": "stop"}]}
    )
    assert read(f": keep-alive\n\nevent: message\ndata: {part}\n\n".encode()).text == "A man"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "broke off"),
        (recorded.stream(recorded.event([recorded.choice({"content": "A man"})])), "broke off"),
        (b"data: <html>oops</html>\n\n", "not JSON"),
        (b"data: [1, 2]\n\n", "not a chat completion"),
        (b'data: {"error": {"message": "no memory", "type": "server_error"}}\n\n', "the server says: no memory"),
        (b'data: {"error": "model runner has stopped"}\n\n', "the server says: model runner has stopped"),
        (b'data: {"object": "error", "message": "too long", "code": 400}\n\n', "the server says: too long"),
        (b'{"error": {"message": "bare line"}}\n', "the server says: bare line"),
        (b'data: {"error": "key sk-secret-1 is wrong"}\n\n', r"key \*\*\* is wrong"),
    ],
)
def test_what_is_no_answer_has_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(RemoteError, match=reason):
        read(content)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_TEXT"])
def test_huge_answer_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_stream, limit, 2000)
    with pytest.raises(RemoteError, match="the answer is l"):
        read(recorded.stream(recorded.event([recorded.choice({"content": "x" * 2001})])))


def test_memory_of_a_stream_without_line_ends_is_bounded() -> None:
    answer = AnswerStream()
    with pytest.raises(RemoteError, match="larger than 2 MB"):
        for _ in range(50):
            answer.feed(b"x" * 65536)
