"""`read_event`: an event of a log or of an interim, checked, with its JSON text as it is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamcap.captions.caption import Caption, CaptureClock, Latency
from streamcap.captions.event import Event, Extend, Payload, Status, StreamState
from streamcap.captions.formats.checks import MAX_EPOCH, MAX_SECONDS, MAX_SEQ
from streamcap.captions.text import MAX_TEXT_CHARACTERS

_Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]


class _Message(BaseModel):
    # Fields that a later version adds are ignored.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    stream: str
    seq: Annotated[int, Field(ge=1, le=MAX_SEQ)]


class _Caption(_Message):
    type: Literal["caption"]
    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCH)]
    id: Annotated[str, Field(max_length=80)]
    revision: Annotated[int, Field(ge=0, le=MAX_SEQ)]
    is_final: bool
    start: _Seconds
    end: _Seconds
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
    logprob: float | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    model: Annotated[str, Field(max_length=4096)] = ""
    captured_at: AwareDatetime
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


class _Status(_Message):
    type: Literal["status"]
    state: StreamState
    reason: Annotated[str, Field(max_length=2000)]

    def payload(self) -> Status:
        return Status(self.stream, self.state, self.reason)


class _Extend(_Message):
    type: Literal["extend"]
    id: Annotated[str, Field(max_length=80)]
    end: _Seconds

    def payload(self) -> Extend:
        return Extend(self.stream, self.id, self.end)


# A gateway reads every event of the cluster: one pass over the text, in native code.
_MESSAGES: TypeAdapter[_Caption | _Status | _Extend] = TypeAdapter(
    Annotated[_Caption | _Status | _Extend, Field(discriminator="type")]
)


def read_event(stream: str, text: str) -> Event:
    """The event with JSON `text`. Raises ValueError, with one line for the log, for what is no event of `stream`."""
    try:
        message = _MESSAGES.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from None
    if message.stream != stream:
        raise ValueError(f"an event that is not of stream {stream}")
    payload: Payload = message.payload()
    return Event(message.seq, payload, text)
