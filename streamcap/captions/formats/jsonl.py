"""JSON lines: every final caption of a stream, one event a line, exactly as the feed sent it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from streamcap.captions.caption import Caption, Latency, utc_seconds
from streamcap.captions.event import Event


def parse(line: str) -> Event | None:
    """The event of one line; None where the line is not a whole final caption (a write cut short by a crash)."""
    try:
        message: dict[str, Any] = json.loads(line)
        latency = message["latency_ms"]
        caption = Caption(
            stream=str(message["stream"]),
            epoch=int(message["epoch"]),
            id=str(message["id"]),
            revision=int(message["revision"]),
            is_final=bool(message["is_final"]),
            start=float(message["start"]),
            end=float(message["end"]),
            text=str(message["text"]),
            logprob=None if message["logprob"] is None else float(message["logprob"]),
            captured_at=utc_seconds(message["captured_at"]),
            captured_at_source="rtcp" if message["captured_at_source"] == "rtcp" else "arrival",
            latency=Latency(**{part: float(latency[part]) for part in Latency.__slots__}),
        )
        return Event(int(message["seq"]), caption, line.strip())
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def finals(file_lines: Iterable[str]) -> list[tuple[Event, Caption]]:
    """The finals, in order, each with what it says; broken lines are passed over."""
    events = (event for line in file_lines if (event := parse(line)) is not None)
    return [(event, event.payload) for event in events if isinstance(event.payload, Caption) and event.is_final]
