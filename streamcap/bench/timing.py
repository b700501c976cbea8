"""Timing contenders in turn, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contender, round by round, the warm-up left out."""

    seconds: tuple[float, ...]
    warm_up: float
    """Seconds of the first call."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, *, rounds: int
) -> dict[str, Timing]:
    """Each contender once a round, for `rounds` rounds; two untimed calls before."""
    warm_up = {}
    for name, call in contenders.items():
        warm_up[name] = _once(call, device)
        _once(call, device)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            seconds[name].append(_once(call, device))
    return {name: Timing(tuple(taken), warm_up[name]) for name, taken in seconds.items()}


def _once(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def ratio(one: Timing, other: Timing) -> float:
    """The median over the rounds of `one` / `other`, so that a slow spell that hit both does not count."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))
