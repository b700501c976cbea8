"""The events of the public feed, each one JSON object; the shapes are the contract of DESIGN's *Events*."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum

from streamcap.captions.caption import Caption, utc_text
from streamcap.captions.text import clean_text

PROTOCOL_VERSION = 1
# Line breaks to Python's `splitlines` or to JavaScript, which JSON does not escape; lone surrogates.
_UNSAFE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


class StreamState(StrEnum):
    """Where a stream stands. Only `ended` and `failed` are final."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """A stream changed its state; `reason` is one redacted line, empty when all is well."""

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
    # Fields, not properties: every subscriber of thousands asks for them.
    stream: str = field(init=False)
    is_interim: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", self.payload.stream)
        object.__setattr__(self, "is_interim", isinstance(self.payload, Caption) and not self.payload.is_final)

    @property
    def is_final(self) -> bool:
        return isinstance(self.payload, Caption) and self.payload.is_final


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """What is kept of an event for replay: a third of the memory of the whole."""

    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class LostRange:
    """Events `first` to `last` of a stream, which cannot be had any more."""

    first: int
    last: int

    @property
    def seq(self) -> int:
        return self.last


def encode(seq: int, payload: Payload) -> Event:
    """Give `payload` its number and its text."""
    match payload:
        case Caption():
            # `type` first and `seq` beside the stream: people read these lines in logs.
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
    """`gap`: events `first` to `last` of a stream are not to be had any more. Of one client, so it has no `seq`."""
    return dump({"type": "gap", "stream": stream, "from": first, "to": last})


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """What `hello` says of one stream."""

    name: str
    state: StreamState
    oldest_seq: int
    """The oldest event that `since` can still bring."""
    last_seq: int
    """The newest event so far; 0 before the first."""


def hello_text(streams: list[StreamSummary], now: float) -> str:
    """`hello`, the first message of every connection. `oldest_seq` is there when it is of one stream."""
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
    """Compact JSON, UTF-8 text kept as it is, that UTF-8 can encode and no reader breaks into lines."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "\ufffd" if 0xD800 <= code < 0xE000 else f"\\u{code:04x}"
