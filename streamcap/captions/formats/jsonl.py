"""JSON lines: the final captions of a stream, one event a line, exactly as the feed sends them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.event import Event, encode
from streamcap.captions.formats import checks
from streamcap.captions.text import MAX_TEXT_CHARACTERS

MAX_LATENCY_MS = 1e9
MAX_LOGPROB = 1e6
MAX_MODEL_CHARACTERS = 4096
_ID = re.compile(r"(?P<stream>.{1,80})-(?P<number>[0-9]{1,15})", re.DOTALL)


@dataclass(slots=True)
class ParsedLines:
    """The finals of a file, in order, and the skipped lines."""

    finals: list[tuple[Event, Caption]] = field(default_factory=list)
    """Each event with its caption."""
    skipped: int = 0
    """Number of lines that are not a final caption."""
    first_skipped: int = 0
    """Number of the first such line, from 1; 0 for none."""
    reason: str = ""
    """What is wrong with that line."""


def parse(line: bytes, *, stream: str | None = None) -> tuple[Event, Caption]:
    """The event and the final caption of one line. Raises ValueError with the reason.

    stream: refuse captions of other streams; None: accept any.
    """
    message = checks.read_json(line)
    if message.get("type") != "caption" or message.get("is_final") is not True:
        raise ValueError("not a final caption")
    caption = read_caption(message, stream=stream)
    # Encoded again, so that subscribers receive checked fields only.
    return encode(checks.read_int(message, "seq", 1, checks.MAX_SEQ), caption), caption


def read_caption(message: Mapping[str, Any], *, stream: str | None = None, is_final: bool = True) -> Caption:
    """The caption of an event's JSON. Raises ValueError with the reason. Parameters as of `parse`."""
    name = checks.read_text(message, "stream", 64)
    if stream is not None and name != stream:
        raise ValueError(f"a caption of stream {name!r}")
    caption_id = checks.read_text(message, "id", 80)
    match = _ID.fullmatch(caption_id)
    if match is None or match["stream"] != name:
        raise ValueError("id is not the stream's name and a number")
    start = checks.read_number(message, "start", 0, checks.MAX_SECONDS)
    latency = checks.read_object(message, "latency_ms")
    return Caption(
        stream=name,
        epoch=checks.read_int(message, "epoch", 0, checks.MAX_EPOCH),
        id=caption_id,
        revision=checks.read_int(message, "revision", 0, checks.MAX_SEQ),
        is_final=is_final,
        start=start,
        end=checks.read_number(message, "end", start, checks.MAX_SECONDS),
        text=checks.read_text(message, "text", MAX_TEXT_CHARACTERS),
        logprob=(
            None
            if message.get("logprob") is None
            else checks.read_number(message, "logprob", -MAX_LOGPROB, MAX_LOGPROB)
        ),
        # Lines of earlier versions have no confidence.
        confidence=None if message.get("confidence") is None else checks.read_number(message, "confidence", 0, 1),
        captured_at=checks.read_utc(message, "captured_at"),
        captured_at_source="rtcp" if message.get("captured_at_source") == "rtcp" else "arrival",
        latency=Latency(
            **{part: checks.read_number(latency, part, -MAX_LATENCY_MS, MAX_LATENCY_MS) for part in Latency.__slots__}
        ),
        model="" if message.get("model") is None else checks.read_text(message, "model", MAX_MODEL_CHARACTERS),
    )


def parse_lines(data: bytes, *, stream: str | None = None, is_tail: bool = False) -> ParsedLines:
    """The finals in `data`: a whole file, or with `is_tail` its end, whose first line may be incomplete.

    Lines that are not a final caption are skipped and counted, except blank lines.
    """
    parsed = ParsedLines()
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            parsed.finals.append(parse(line, stream=stream))
        except ValueError as error:
            if is_tail and number == 1:
                continue
            parsed.skipped += 1
            if not parsed.first_skipped:
                parsed.first_skipped, parsed.reason = number, str(error)
    return parsed
