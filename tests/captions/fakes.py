"""Captions for tests."""

from __future__ import annotations

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.track import SampleTime

LATENCY = Latency(ingest=3.1, queue=0.4, encode=2.2, decode=4.0, total=9.7)


def at(start: float, epoch: int = 0) -> SampleTime:
    return SampleTime(epoch=epoch, start=start, captured_at=1_763_682_361.120 + start, captured_at_source="arrival")


def caption(
    text: str = "a man opens a door",
    *,
    stream: str = "door",
    number: int = 37,
    start: float = 12.48,
    is_final: bool = True,
) -> Caption:
    return Caption(
        stream=stream,
        epoch=0,
        id=f"{stream}-{number}",
        revision=2,
        is_final=is_final,
        start=start,
        end=start + 1,
        text=text,
        logprob=-0.41 if is_final else None,
        confidence=0.83 if is_final else None,
        captured_at=1_763_682_361.120,
        captured_at_source="rtcp",
        latency=LATENCY,
        model="mini",
    )
