"""`parse` raises only ProtocolError, for any message."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from streamcap_client import Other, ProtocolError, parse

from streamcap.captions.event import encode
from tests.captions.fakes import caption
from tests.examples import examples

KEYS = ("type", "stream", "seq", "id", "end", "state", "reason", "from", "to", "protocol", "server_time", "streams")
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["hello", "caption", "extend", "status", "gap"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)


@settings(deadline=None, derandomize=True, max_examples=examples(60))
@given(
    st.one_of(
        st.text(), st.binary(), VALUES.map(json.dumps), st.dictionaries(st.sampled_from(KEYS), VALUES).map(json.dumps)
    )
)
def test_any_message_parses_or_is_protocol_error(message: str | bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse(message)


def test_caption_without_confidence_parses() -> None:
    message = json.loads(encode(41, caption()).text)
    assert parse(json.dumps(message)).confidence == 0.83
    del message["confidence"]  # a service of an earlier version
    assert parse(json.dumps(message)).confidence is None


def test_unknown_event_type_is_kept() -> None:
    assert parse('{"type":"chapter","title":"x"}') == Other("chapter", {"type": "chapter", "title": "x"})
