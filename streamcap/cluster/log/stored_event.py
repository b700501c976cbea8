"""`read_event`: an event of a log or of an interim, checked, with its JSON text as it is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.event import Event, Extend, Status, StreamState
from streamcap.captions.formats.checks import MAX_EPOCH, MAX_SECONDS, MAX_SEQ
from streamcap.captions.text import MAX_TEXT_CHARACTERS
from streamcap.capture_clock import CaptureClock

_Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
_Id = Annotated[str, Meta(max_length=80)]


class _Message(Struct, kw_only=True, gc=False):
    # Fields that a later version adds are ignored.
    stream: str
    seq: Annotated[int, Meta(ge=1, le=MAX_SEQ)]


class _Caption(_Message, tag_field="type", tag="caption", kw_only=True, gc=False):
    epoch: Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
    id: _Id
    revision: Annotated[int, Meta(ge=0, le=MAX_SEQ)]
    is_final: bool
    start: _Seconds
    end: _Seconds
    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
    logprob: float | None = None
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    model: Annotated[str, Meta(max_length=4096)] = ""
    captured_at: Annotated[datetime, Meta(tz=True)]
    captured_at_source: CaptureClock
    latency_ms: Latency

    def payload(self) -> Caption:
        name, _, number = self.id.rpartition("-")
        if name != self.stream or not (number.isascii() and number.isdecimal()):
            raise ValueError("id is not the stream's name and a number")
        if self.end < self.start:
            raise ValueError("it ends before it starts")
        return Caption(
            self.stream, self.epoch, self.id, self.revision, self.is_final, self.start, self.end, self.text,
            self.logprob, self.confidence, self.captured_at.timestamp(), self.captured_at_source, self.latency_ms,
            self.model,
        )  # fmt: skip


class _Status(_Message, tag_field="type", tag="status", kw_only=True, gc=False):
    state: StreamState
    reason: Annotated[str, Meta(max_length=2000)]

    def payload(self) -> Status:
        return Status(self.stream, self.state, self.reason)


class _Extend(_Message, tag_field="type", tag="extend", kw_only=True, gc=False):
    id: _Id
    end: _Seconds

    def payload(self) -> Extend:
        return Extend(self.stream, self.id, self.end)


# A gateway reads every event of the cluster: one pass over the text, in native code.
_MESSAGES = Decoder(_Caption | _Status | _Extend)


def read_event(stream: str, text: str) -> Event:
    """The event with JSON `text`. Raises ValueError, with one line for the log, for what is no event of `stream`."""
    try:
        message = _MESSAGES.decode(text)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if message.stream != stream:
        raise ValueError(f"an event that is not of stream {stream}")
    return Event(message.seq, message.payload(), text)
