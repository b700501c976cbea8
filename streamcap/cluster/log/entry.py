"""Messages of a stream's log: a header with the owner's term and reservation, and one event a line."""

from __future__ import annotations

from collections.abc import Mapping

from streamcap.cluster.jetstream.direct_client import make_header
from streamcap.cluster.log.ownership import LogEntry, Write
from streamcap.streams.counters import Counters, check_counters

HEADER = "Streamcap"
"""Term, `begin`, id, the four counters of the reservation, and the node: separated by spaces, since each header and
each JSON document costs time on every gateway."""
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_FIELDS = 8
_NO_COUNTERS = Counters()
MAX_EVENTS = 4096
"""Events of one message; any further ones are ignored."""


def header_of(write: Write) -> bytes:
    """The header block of `write`: what fences it, and what the next owner must know."""
    kept = write.reserved
    counters = f"{kept.seq} {kept.caption} {kept.epoch} {kept.time!r}"
    return make_header(
        {
            _EXPECTED: str(write.expected_last),
            HEADER: f"{write.term} {write.begin} {write.message_id} {counters} {write.node}",
        }
    )


def body_of(write: Write) -> bytes:
    return "\n".join(write.events).encode()


def read_entry(
    stream: str, sequence: int, headers: Mapping[str, str] | None, body: bytes, *, is_viewer: bool = False
) -> LogEntry:
    """The message of `stream` with JetStream's `sequence`. Raises ValueError for one that streamcap did not write.

    is_viewer: leave out what only the next owner needs.
    """
    fields = (headers or {}).get(HEADER, "").split(" ", _FIELDS - 1)
    if len(fields) != _FIELDS:
        raise ValueError(f"message {sequence} of stream {stream} has no header {HEADER}")
    term, begin, message_id, seq, caption, epoch, time, node = fields
    reserved = _NO_COUNTERS if is_viewer else check_counters(int(seq), int(caption), int(epoch), float(time))
    events = tuple(body.decode().split("\n")[:MAX_EVENTS]) if body else ()
    return LogEntry(sequence, message_id, node, int(term), int(begin), reserved, events)


def previous_sequence(headers: Mapping[str, str]) -> int:
    """JetStream's sequence of the message before this one in the same log; 0: there was none, or it is not known."""
    text = headers.get(_EXPECTED, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else 0
