"""Events of a log, read by streamcap and by a model in pydantic, an independent reader with the same bounds."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamcap.captions.caption import Caption
from streamcap.captions.event import Extend, Payload, Status, StreamState, encode
from streamcap.captions.formats.checks import MAX_EPOCH, MAX_SECONDS, MAX_SEQ
from streamcap.captions.text import MAX_TEXT_CHARACTERS
from streamcap.cluster.log.stored_event import read_event
from tests.captions.fakes import caption

Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]


class Base(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    stream: Literal["door"]
    seq: Annotated[int, Field(ge=1, le=MAX_SEQ)]


class Times(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    ingest: float
    queue: float
    encode: float
    decode: float
    total: float


class CaptionModel(Base):
    type: Literal["caption"]
    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCH)]
    id: Annotated[str, Field(max_length=80, pattern=r"^door-[0-9]+$")]
    revision: Annotated[int, Field(ge=0, le=MAX_SEQ)]
    is_final: bool
    start: Seconds
    end: Seconds
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
    logprob: float | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    model: Annotated[str, Field(max_length=4096)] = ""
    captured_at: AwareDatetime
    captured_at_source: Literal["rtcp", "arrival"]
    latency_ms: Times


class StatusModel(Base):
    type: Literal["status"]
    state: StreamState
    reason: Annotated[str, Field(max_length=2000)]


class ExtendModel(Base):
    type: Literal["extend"]
    id: Annotated[str, Field(max_length=80)]
    end: Seconds


MODELS: TypeAdapter[CaptionModel | StatusModel | ExtendModel] = TypeAdapter(
    Annotated[CaptionModel | StatusModel | ExtendModel, Field(discriminator="type")]
)
PAYLOADS: list[Payload] = [
    caption(),
    caption(is_final=False),
    Status("door", StreamState.STALLED, "no frame for 2.0 s"),
    Extend("door", "door-3", 7.25),
]
MESSAGES = [json.loads(encode(7, payload).text) for payload in PAYLOADS]
FIELDS = sorted({field for message in MESSAGES for field in message} - {"type"})
NUMBERS = st.sampled_from([0, 1, -1, 0.5, 1.0, 1.5, -0.0, MAX_EPOCH + 1, MAX_SEQ + 1, 1e9, 1.1e9, 2**63, 10**30])
TEXTS = st.sampled_from(["", "door", "yard", "door-7", "door-", "door-x", "yard-7", "live", "x" * 81, "x" * 4097])
TIMES = st.sampled_from(["2026-11-20T23:46:01.120Z", "2026-11-20T23:46:01.120", "2026-11-20T24:46:01Z", "now"])
OTHERS = st.none() | st.booleans() | st.just([]) | st.just({}) | st.text(max_size=5)
VALUES = NUMBERS | TEXTS | TIMES | OTHERS


def values_of(payload: Payload) -> dict[str, Any]:
    match payload:
        case Caption():
            return {**payload.as_json(), "captured_at": payload.captured_at, "latency_ms": payload.latency}
        case Status():
            return {"stream": payload.stream, "state": payload.state, "reason": payload.reason}
        case Extend():
            return {"stream": payload.stream, "id": payload.id, "end": payload.end}


def assert_read_alike(text: str) -> None:
    try:
        model = MODELS.validate_json(text)
        assert not isinstance(model, CaptionModel) or model.start <= model.end
    except (ValidationError, AssertionError):
        with pytest.raises(ValueError):
            read_event("door", text)
        return
    event = read_event("door", text)
    assert (event.seq, event.text, event.payload.stream) == (model.seq, text, "door")
    for name, value in values_of(event.payload).items():
        expected: Any = getattr(model, name)
        if name == "captured_at":
            expected = expected.timestamp()
        elif name == "latency_ms":
            assert value.as_json() == {part: round(getattr(expected, part), 2) for part in value.as_json()}
            continue
        assert value == expected or math.isclose(value, expected, abs_tol=1e-3), name


@pytest.mark.parametrize("payload", PAYLOADS)
def test_stored_event_is_read_alike(payload: Payload) -> None:
    assert_read_alike(encode(7, payload).text)


@given(st.sampled_from(MESSAGES), st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
@example(MESSAGES[0], {"later": [1, {"a": 2}]})
def test_foreign_values_are_refused_alike(message: dict[str, Any], changes: dict[str, Any]) -> None:
    assert_read_alike(json.dumps({**message, **changes}))


@given(st.sampled_from(MESSAGES), st.sampled_from([*FIELDS, "type"]))
def test_missing_fields_are_refused_alike(message: dict[str, Any], field: str) -> None:
    assert_read_alike(json.dumps({name: value for name, value in message.items() if name != field}))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1e999", '"\\ud800"', "[[[[[[", "01", "1 1", "\x00"])
def test_broken_json_is_refused_alike(text: str) -> None:
    # pydantic takes what is no JSON in a field that it ignores.
    for field in ("start", "logprob", "text", *(["later"] if text[0] not in "NI" else [])):
        assert_read_alike(json.dumps({**MESSAGES[0], field: 0}).replace(f'"{field}": 0', f'"{field}": {text}'))
    assert_read_alike(text)


def test_deeply_nested_text_is_refused() -> None:
    with pytest.raises(ValueError):
        read_event("door", json.dumps({**MESSAGES[0], "later": 0})[:-2] + "[" * 100_000)
