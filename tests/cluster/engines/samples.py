"""Samples, reports and a clock for tests of the engines of a cluster."""

from __future__ import annotations

import numpy as np

from streamcap.cluster.engines.messages import EngineReport
from streamcap.media.frame import Sample

PIXELS = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sample(stream: str = "door", *, at: float = 1.0, model: str = "mini") -> Sample:
    return Sample(stream, PIXELS, 1, at, 1.7e9 + at, "rtcp", at, at + 0.01, model, prompt="what is this?")


def report(engine: str, window: int = 4, *, owner: str = "me", draining: bool = False) -> EngineReport:
    return EngineReport(engine, {"mini": "m1"}, {owner: window}, window, 10.0, draining)
