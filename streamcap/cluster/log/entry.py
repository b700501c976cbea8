"""Messages of a stream's log: headers with the owner's term and reservation, and one event a line."""

from __future__ import annotations

import json
from collections.abc import Mapping

from streamcap.captions.event import Event, Extend, Status, StreamState
from streamcap.captions.formats import checks, jsonl
from streamcap.cluster.ownership import LogEntry, Write
from streamcap.streams.counters import Counters, format_counters, parse_counters

_TERM, _NODE, _BEGIN, _RESERVED = "Streamcap-Term", "Streamcap-Node", "Streamcap-Begin", "Streamcap-Reserved"
_ID, _EXPECTED = "Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence"
# Of a start or end, or of the events of one message.
MAX_EVENTS = 4096


def headers_of(stream: str, write: Write) -> dict[str, str]:
    """The headers of `write`: what fences it, and what the next owner must know."""
    return {
        _ID: write.message_id,
        _EXPECTED: str(write.expected_last),
        _NODE: write.node,
        _TERM: str(write.term),
        _BEGIN: str(write.begin),
        _RESERVED: format_counters(stream, write.reserved).strip(),
    }


def body_of(write: Write) -> bytes:
    return "\n".join(write.events).encode()


def read_entry(
    stream: str, sequence: int, headers: Mapping[str, str] | None, body: bytes, *, is_viewer: bool = False
) -> LogEntry:
    """The message of `stream` with JetStream's `sequence`. Raises ValueError for one that streamcap did not write.

    is_viewer: leave out what only the next owner needs.
    """
    headers = headers or {}
    try:
        term, begin = int(headers[_TERM]), int(headers[_BEGIN])
        message_id, node, reserved = headers[_ID], headers[_NODE], headers[_RESERVED]
    except KeyError as error:
        raise ValueError(f"message {sequence} of stream {stream} has no header {error}") from None
    return LogEntry(
        sequence=sequence,
        message_id=message_id,
        node=node,
        term=term,
        begin=begin,
        reserved=Counters() if is_viewer else _reserved(stream, reserved),
        events=tuple(body.decode().split("\n")[:MAX_EVENTS]) if body else (),
    )


def previous_sequence(headers: Mapping[str, str]) -> int:
    """JetStream's sequence of the message before this one in the same log; 0: there was none, or nothing tells."""
    text = headers.get(_EXPECTED, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else 0


def _reserved(stream: str, text: str) -> Counters:
    return parse_counters(text.encode(), stream)


def read_event(stream: str, text: str) -> Event:
    """The event with JSON `text`, which is kept as it is. Raises ValueError for what is no event of `stream`."""
    message = json.loads(text)
    if not isinstance(message, dict) or message.get("stream") != stream:
        raise ValueError(f"an event that is not of stream {stream}")
    seq = checks.read_int(message, "seq", 1, checks.MAX_SEQ)
    match message.get("type"):
        case "caption":
            caption = jsonl.read_caption(message, stream=stream, is_final=message.get("is_final") is True)
            return Event(seq, caption, text)
        case "status":
            state = StreamState(checks.read_text(message, "state", 20))
            return Event(seq, Status(stream, state, checks.read_text(message, "reason", 2000)), text)
        case "extend":
            end = checks.read_number(message, "end", 0, checks.MAX_SECONDS)
            return Event(seq, Extend(stream, checks.read_text(message, "id", 80), end), text)
        case kind:
            raise ValueError(f"an event of unknown type {str(kind)[:40]!r}")
