"""The events of the feed, parsed from JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


class ProtocolError(Exception):
    """A message that is not a feed event."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of every connection."""

    protocol: int
    server_time: str
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caption:
    """One revision of a caption; it replaces earlier ones with the same `id`. A final is never revised."""

    stream: str
    seq: int
    id: str
    revision: int
    is_final: bool
    epoch: int
    start: float
    """Seconds on the stream's timeline, which is monotonic."""
    end: float
    text: str
    logprob: float | None
    captured_at: str
    """Capture time (RFC 3339, UTC), by the clock `captured_at_source` (`rtcp` or `arrival`)."""
    captured_at_source: str
    latency_ms: dict[str, float]
    confidence: float | None = None
    """Probability, from 0 to 1, that the text is true; None if the model cannot say."""
    model: str = ""
    """Name of the model that wrote it."""


@dataclass(frozen=True, slots=True)
class Extend:
    """The final caption `id` is still valid: its end moves to `end`."""

    stream: str
    seq: int
    id: str
    end: float


@dataclass(frozen=True, slots=True)
class Status:
    """A stream is now `connecting`, `live`, `stalled`, `reconnecting`, `ended` or `failed`."""

    stream: str
    seq: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Events `first` to `last` of a stream are no longer available."""

    stream: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Other:
    """An event of a type that this client does not know."""

    type: str
    message: dict[str, Any]


Event = Hello | Caption | Extend | Status | Gap | Other


def parse(text: str | bytes) -> Event:
    """Parse one message; unknown fields are ignored. Raises ProtocolError."""
    try:
        message: dict[str, Any] = json.loads(text)
        kind = message["type"]
        match kind:
            case "hello":
                return Hello(
                    int(message["protocol"]),
                    str(message["server_time"]),
                    tuple(str(stream["name"]) for stream in message["streams"]),
                )
            case "caption":
                return _caption(message)
            case "extend":
                return Extend(str(message["stream"]), int(message["seq"]), str(message["id"]), float(message["end"]))
            case "status":
                return Status(
                    str(message["stream"]), int(message["seq"]), str(message["state"]), str(message["reason"])
                )
            case "gap":
                return Gap(str(message["stream"]), int(message["from"]), int(message["to"]))
            case str():
                return Other(kind, message)
        raise ValueError("type is not a string")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"not an event of a caption feed ({error!r}): {text[:80]!r}") from error


def _caption(message: dict[str, Any]) -> Caption:
    logprob, confidence = message["logprob"], message.get("confidence")
    return Caption(
        stream=str(message["stream"]),
        seq=int(message["seq"]),
        id=str(message["id"]),
        revision=int(message["revision"]),
        is_final=bool(message["is_final"]),
        epoch=int(message["epoch"]),
        start=float(message["start"]),
        end=float(message["end"]),
        text=str(message["text"]),
        logprob=None if logprob is None else float(logprob),
        captured_at=str(message["captured_at"]),
        captured_at_source=str(message["captured_at_source"]),
        latency_ms={str(stage): float(value) for stage, value in message["latency_ms"].items()},
        confidence=None if confidence is None else float(confidence),
        model=str(message.get("model", "")),
    )
