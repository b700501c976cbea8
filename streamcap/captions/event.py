"""The events of the public feed, each one JSON object; docs/feed.md describes them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from pydantic_core import PydanticSerializationError, to_json

from streamcap.captions.caption import Caption, utc_text
from streamcap.captions.text import clean_text

PROTOCOL_VERSION = 1
# Line breaks for Python's `splitlines` or JavaScript that JSON does not escape, and lone surrogates.
_UNSAFE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


class StreamState(StrEnum):
    """State of a stream. Only `ended` and `failed` are final."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a stream; `reason` is one redacted line, empty if nothing is wrong."""

    stream: str
    state: StreamState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Extend:
    """The final caption `id` is still true: its end moves to `end` (seconds on the output timeline)."""

    stream: str
    id: str
    end: float


Payload = Caption | Status | Extend


@dataclass(frozen=True, slots=True)
class Event:
    """A payload with its place in the stream's sequence, and its JSON text, encoded once for every subscriber."""

    seq: int
    payload: Payload
    text: str
    # Fields, not properties: each of thousands of subscriptions reads them.
    stream: str = field(init=False)
    is_interim: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", self.payload.stream)
        object.__setattr__(self, "is_interim", isinstance(self.payload, Caption) and not self.payload.is_final)

    @property
    def is_final(self) -> bool:
        return isinstance(self.payload, Caption) and self.payload.is_final


class StoredEvent(NamedTuple):
    """An event as stored for replay, in a third of the memory."""

    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class LostRange:
    """Events `first` to `last` of a stream, which are lost."""

    first: int
    last: int

    @property
    def seq(self) -> int:
        return self.last


def encode(seq: int, payload: Payload) -> Event:
    """Make an event with number `seq` and its JSON text."""
    match payload:
        case Caption():
            # `type` and `seq` come first, for people who read logs.
            message: dict[str, object] = {"type": "caption", "seq": seq, **payload.as_json()}
        case Status():
            message = {
                "type": "status",
                "stream": payload.stream,
                "seq": seq,
                "state": payload.state.value,
                "reason": clean_text(payload.reason),
            }
        case Extend():
            message = {
                "type": "extend",
                "stream": payload.stream,
                "seq": seq,
                "id": payload.id,
                "end": round(payload.end, 3),
            }
    return Event(seq, payload, dump(message))


def gap_text(stream: str, first: int, last: int) -> str:
    """`gap`: events `first` to `last` of a stream are lost. Belongs to one connection, so it has no `seq`."""
    return dump({"type": "gap", "stream": stream, "from": first, "to": last})


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """One stream in `hello`."""

    name: str
    state: StreamState
    oldest_seq: int
    """The oldest event that `since` can replay."""
    last_seq: int
    """The newest event so far; 0 before the first."""


def hello_text(streams: list[StreamSummary], now: float) -> str:
    """`hello`, the first message of every connection. For a single stream it also has `oldest_seq` at the top."""
    message: dict[str, object] = {
        "type": "hello",
        "protocol": PROTOCOL_VERSION,
        "server_time": utc_text(now),
        "streams": [
            {"name": s.name, "state": s.state.value, "oldest_seq": s.oldest_seq, "last_seq": s.last_seq}
            for s in streams
        ],
    }
    if len(streams) == 1:
        message["oldest_seq"] = streams[0].oldest_seq
    return dump(message)


def dump(message: dict[str, object]) -> str:
    """Compact JSON with non-ASCII text unescaped, valid in UTF-8 and on one line for every reader."""
    try:
        text = to_json(message).decode()  # native code: a third of the time of `json.dumps`
    except PydanticSerializationError:  # a lone surrogate
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\ufffd" if 0xD800 <= code < 0xE000 else f"\\u{code:04x}"
