from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from streamcap.cluster.engines.messages import (
    Answer,
    Demand,
    EngineReport,
    Request,
    decode_answers,
    decode_requests,
    encode_answers,
    encode_requests,
)
from streamcap.engine.change_gate import GateMemory
from streamcap.engine.outcome import Captioned, Failed, Interim, Times, Unchanged, Unconfirmed
from tests.cluster.engines.samples import report, sample

MEMORY = GateMemory("a dög", "mini", 1, 0.5, [np.ones(4, np.float32)], 0.75, ("a cat", sample(at=0.75)), "me:7")


def fields(value: object) -> dict[str, object]:
    shown = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
    return {name: shown[name] for name in shown if name not in ("pixels", "references", "unconfirmed")}


def test_requests_arrive_as_they_were_sent() -> None:
    sent = [Request(1, sample("a"), None), Request(2, sample("b", at=2.0), MEMORY)]
    body = encode_requests("me", "mini", sent)
    assert len(body) <= sum(request.size for request in sent)
    owner, received = decode_requests(body)
    assert owner == "me"
    for before, after in zip(sent, received, strict=True):
        assert after.id == before.id
        assert fields(after.sample) == fields(before.sample)
        assert np.array_equal(after.sample.pixels, before.sample.pixels)
    memory = received[1].memory
    assert received[0].memory is None and memory is not None
    assert fields(memory) == fields(MEMORY)
    assert memory.references == [] and memory.unconfirmed is not None and memory.unconfirmed[0] == "a cat"


CUT = encode_requests("me", "mini", [Request(1, sample(), None)])[:-1]


@pytest.mark.parametrize("body", [b"", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\xff\xff\xff\xff", CUT])
def test_what_is_no_request_raises_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_requests(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"id": 1}]',
        b'[{"id": 1, "kind": "new"}]',
        b'[{"id": 1, "kind": "failed", "memory": {}}]',
    ],
)
def test_what_is_no_answer_raises_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_answers(body)


def test_outcomes_come_back_with_the_owners_sample() -> None:
    own = sample(at=2.0)
    request = Request(9, own, MEMORY)
    times = Times(1.0, 1.1, 1.4)
    there = [
        Interim(own, "a", times),
        Captioned(own, "a cat", -0.5, times, first=own, confidence=0.75),
        Unchanged(own, decoded=True),
        Unconfirmed(own),
        Failed(own, "NaN"),
    ]
    answers = decode_answers(encode_answers(Answer.of(9, outcome, MEMORY) for outcome in there))
    interim, captioned, unchanged, unconfirmed, failed = (answer.outcome(request, 50.0) for answer in answers)
    assert isinstance(interim, Interim) and interim.text == "a" and interim.times.decoded == 50.0
    assert isinstance(captioned, Captioned) and captioned.sample is own
    assert (captioned.text, captioned.logprob, captioned.confidence) == ("a cat", -0.5, 0.75)
    assert captioned.first is not None and captioned.first.start == 0.75
    assert captioned.times.encoded == pytest.approx(49.7) and captioned.times.taken == pytest.approx(49.6)
    assert unchanged == Unchanged(own, decoded=True)
    assert isinstance(unconfirmed, Unconfirmed) and failed == Failed(own, "NaN")


def test_reports_and_demand_arrive() -> None:
    assert EngineReport.parse(report("a").as_json()) == report("a")
    assert Demand.parse(Demand("me", {"mini": 3}).as_json()) == Demand("me", {"mini": 3})
    for body in (b"", b"[]", json.dumps({"engine": "a"}).encode(), b'{"owner": "me", "streams": 3}'):
        with pytest.raises(ValueError):
            EngineReport.parse(body)
        with pytest.raises(ValueError):
            Demand.parse(body)
