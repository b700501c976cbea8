"""What ingest nodes and engines send each other over core NATS: requests, answers, reports. All times in seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from streamcap.engine.change_gate import GateMemory
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Times, Unchanged, Unconfirmed
from streamcap.media.frame import Pixels, Sample

MESSAGE_BYTES = 2048
"""More than the part of a request that describes one sample, without its texts and pixels."""
Kind = Literal["interim", "captioned", "unchanged", "unconfirmed", "failed", "busy"]
NO_PIXELS: Pixels = np.zeros((0, 0, 3), np.uint8)
_ANY = Sample("", NO_PIXELS, 0, 0.0, 0.0, "arrival", 0.0, 0.0)
_TIMES = ("epoch", "start", "captured_at", "captured_at_source", "arrived", "submitted")


@dataclass(frozen=True, slots=True)
class Request:
    """One sample. Pixels travel as the model's encoder takes them, uncompressed: the engine sees what an engine in the
    same process would, so that the captions are the same, and neither side spends CPU on a codec."""

    id: int
    """Counts the requests of the ingest node."""
    sample: Sample
    memory: GateMemory | None
    """The stream's last final, without references: those stay at the engine."""

    @property
    def size(self) -> int:
        """At most so many bytes of a message."""
        texts = len(self.sample.prompt or "") + (0 if self.memory is None else 2 * len(self.memory.text))
        return MESSAGE_BYTES + 6 * texts + self.sample.pixels.nbytes


def encode_requests(owner: str, model: str, requests: Sequence[Request]) -> bytes:
    """Requests of one model as one message."""
    header = {"owner": owner, "model": model, "samples": [_request(request) for request in requests]}
    text = json.dumps(header).encode()
    return b"".join((len(text).to_bytes(4), text, *(request.sample.pixels.tobytes() for request in requests)))


def decode_requests(body: bytes) -> tuple[str, list[Request]]:
    """The owner, and its requests. Raises ValueError."""
    try:
        begin = 4 + int.from_bytes(body[:4])
        header = json.loads(body[4:begin])
        requests = []
        for entry in header["samples"]:
            shape = tuple(int(length) for length in entry["shape"])
            count = math.prod(shape)
            if min(shape, default=0) < 1 or begin + count > len(body):
                raise ValueError("the pixels of a sample are missing")
            pixels = np.frombuffer(body, np.uint8, count, begin).reshape(shape)
            begin += count
            requests.append(_read_request(entry, str(header["model"]), pixels))
        return str(header["owner"]), requests
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a request: {error!r}") from None


def _request(request: Request) -> dict[str, Any]:
    sample = request.sample
    entry = {name: getattr(sample, name) for name in _TIMES}
    entry |= {"id": request.id, "stream": sample.stream, "shape": sample.pixels.shape, "prompt": sample.prompt}
    return entry | {"memory": _memory(request.memory)}


def _read_request(entry: dict[str, Any], model: str, pixels: Pixels) -> Request:
    times = {name: entry[name] for name in _TIMES}
    prompt = entry["prompt"]
    sample = Sample(
        stream=str(entry["stream"]), pixels=pixels, model=model, prompt=None if prompt is None else str(prompt), **times
    )
    return Request(int(entry["id"]), sample, read_memory(entry["memory"], sample))


def _memory(memory: GateMemory | None) -> dict[str, Any] | None:
    if memory is None:
        return None
    return {
        "id": memory.id,
        "text": memory.text,
        "model": memory.model,
        "epoch": memory.epoch,
        "start": memory.start,
        "last": memory.last_sample_at,
        "unconfirmed": None if memory.unconfirmed is None else memory.unconfirmed[0],
    }


def read_memory(entry: dict[str, Any] | None, sample: Sample) -> GateMemory | None:
    """`sample`: the one whose text is unconfirmed. Its pixels are not kept. Raises KeyError, TypeError, ValueError."""
    if entry is None:
        return None
    unconfirmed = entry["unconfirmed"]
    return GateMemory(
        str(entry["text"]),
        str(entry["model"]),
        int(entry["epoch"]),
        float(entry["start"]),
        [],
        float(entry["last"]),
        None if unconfirmed is None else (str(unconfirmed), replace(sample, pixels=NO_PIXELS)),
        str(entry["id"]),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's answer to one request: any number of interims, then one of another kind."""

    id: int
    kind: Kind
    text: str = ""
    """The caption; of `failed` the reason."""
    logprob: float | None = None
    confidence: float | None = None
    decoded: bool = False
    """Of `unchanged`."""
    confirms: bool = False
    """Of `captioned`: the sample confirmed the text of an earlier one."""
    encode: float = 0.0
    decode: float = 0.0
    memory: dict[str, Any] | None = None
    """The stream's last final from now on; of interims, `failed` and `busy`: None, as before."""

    @classmethod
    def of(cls, number: int, outcome: Outcome, memory: GateMemory | None) -> Self:
        """The answer for an engine's outcome."""
        match outcome:
            case Interim(times=times):
                encode, decode = _seconds(times)
                return cls(number, "interim", outcome.text, encode=encode, decode=decode)
            case Captioned(times=times):
                encode, decode = _seconds(times)
                return cls(
                    number,
                    "captioned",
                    outcome.text,
                    outcome.logprob,
                    outcome.confidence,
                    confirms=outcome.first is not None,
                    encode=encode,
                    decode=decode,
                    memory=_memory(memory),
                )
            case Unchanged():
                return cls(number, "unchanged", decoded=outcome.decoded, memory=_memory(memory))
            case Unconfirmed():
                return cls(number, "unconfirmed", memory=_memory(memory))
            case Failed():
                return cls(number, "failed", outcome.reason)

    def outcome(self, request: Request, now: float) -> Outcome:
        """The outcome of the request, which was answered at monotonic time `now`. `busy` has none: ValueError."""
        sample = request.sample
        times = Times(now - self.decode - self.encode, now - self.decode, now)
        match self.kind:
            case "interim":
                return Interim(sample, self.text, times)
            case "captioned":
                unconfirmed = None if request.memory is None else request.memory.unconfirmed
                first = unconfirmed[1] if self.confirms and unconfirmed is not None else None
                return Captioned(sample, self.text, self.logprob, times, first, self.confidence)
            case "unchanged":
                return Unchanged(sample, self.decoded)
            case "unconfirmed":
                return Unconfirmed(sample)
            case "failed":
                return Failed(sample, self.text)
            case _:
                raise ValueError(f"no outcome: {self.kind}")


def _seconds(times: Times) -> tuple[float, float]:
    """Of encoding and decoding."""
    return round(times.encoded - times.taken, 6), round(times.decoded - times.encoded, 6)


def encode_answers(answers: Iterable[Answer]) -> bytes:
    return json.dumps([asdict(answer) for answer in answers]).encode()


def decode_answers(body: bytes) -> list[Answer]:
    """Raises ValueError."""
    try:
        entries = json.loads(body)
        if not isinstance(entries, list):
            raise ValueError("not a list of answers")
        answers = [Answer(**entry) for entry in entries]
        for answer in answers:
            if answer.kind not in get_args(Kind) or not isinstance(answer.text, str):
                raise ValueError(f"unknown kind of answer: {str(answer.kind)[:40]!r}")
            float(answer.encode + answer.decode)
            read_memory(answer.memory, _ANY)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer: {error!r}") from None
    return answers


@dataclass(frozen=True, slots=True)
class EngineReport:
    """The state of an engine, sent to all ingest nodes twice a second and when it changes."""

    engine: str
    models: dict[str, str]
    """Name → fingerprint (`ModelInfo.fingerprint`) of each model that it serves."""
    windows: dict[str, int] = field(default_factory=dict)
    """By ingest node: samples that it may have here at a time."""
    free: int = 0
    """Samples that the engine takes now."""
    rows_per_second: float = 0.0
    """Samples per second that it has captioned lately."""
    draining: bool = False
    """It answers the requests that it has, and takes no more."""

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, body: bytes) -> EngineReport:
        """Raises ValueError."""
        message = json.loads(body)
        try:
            known = {each.name: message[each.name] for each in fields(cls) if each.name in message}
            report = cls(**known)
            windows = {str(owner): int(window) for owner, window in report.windows.items()}
            models = {str(name): str(value) for name, value in report.models.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the report of an engine: {error!r}") from None
        return replace(report, engine=str(report.engine), windows=windows, models=models)


@dataclass(frozen=True, slots=True)
class Demand:
    """How many streams an ingest node has, sent to all engines twice a second and when it changes."""

    owner: str
    streams: dict[str, int]
    """By model: streams that have samples."""

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, body: bytes) -> Demand:
        """Raises ValueError."""
        message = json.loads(body)
        try:
            return cls(str(message["owner"]), {str(name): int(count) for name, count in message["streams"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the demand of a node: {error!r}") from None
