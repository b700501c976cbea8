"""`Caption`: one sentence about one moment of a stream, and its latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from streamcap.capture_clock import CaptureClock


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency from a frame's arrival to its caption and its parts, in milliseconds of one monotonic clock."""

    ingest: float
    """From the arrival of the frame until it is converted and submitted to the engine."""
    queue: float
    """Wait for the device."""
    encode: float
    """Vision encoder and mapping, for the whole batch."""
    decode: float
    """GPT-2, until this caption's text."""
    total: float
    """From arrival to caption: the parts and what lies between them."""

    def as_json(self) -> dict[str, float]:
        return {
            "ingest": round(self.ingest, 2),
            "queue": round(self.queue, 2),
            "encode": round(self.encode, 2),
            "decode": round(self.decode, 2),
            "total": round(self.total, 2),
        }


class Caption(NamedTuple):
    """One revision of one caption. `id` and `revision` let a client upsert; a final is never revised."""

    stream: str
    epoch: int
    id: str
    revision: int
    is_final: bool
    start: float
    """Seconds on the stream's output timeline."""
    end: float
    text: str
    logprob: float | None
    """Mean log-probability of its tokens; None while interim."""
    confidence: float | None
    """Probability, from 0 to 1, that the text is true; None while interim, or if the model cannot say."""
    captured_at: float
    """Seconds since 1970 UTC."""
    captured_at_source: CaptureClock
    latency: Latency
    model: str = ""
    """Name of the model that wrote it; empty in captions of earlier versions."""

    def as_json(self) -> dict[str, object]:
        """The fields of a `caption` event, without `type` and `seq`."""
        return {
            "stream": self.stream,
            "epoch": self.epoch,
            "id": self.id,
            "revision": self.revision,
            "is_final": self.is_final,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "text": self.text,
            "logprob": _rounded(self.logprob),
            "confidence": _rounded(self.confidence),
            "model": self.model,
            "captured_at": utc_text(self.captured_at),
            "captured_at_source": self.captured_at_source,
            "latency_ms": self.latency.as_json(),
        }


def _rounded(number: float | None) -> float | None:
    """JSON has no NaN, which a model in half precision may produce."""
    return None if number is None or not math.isfinite(number) else round(number, 4)


def utc_text(seconds: float) -> str:
    """RFC 3339 in UTC to the millisecond: `2026-11-20T23:46:01.120Z`."""
    milliseconds = round(seconds * 1_000_000) // 1000
    return f"{_utc_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


@lru_cache(maxsize=64)
def _utc_second(second: int) -> str:
    """To the second: captions of the same time are many."""
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
