"""Interleaved timing of contenders, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contender in each round, without the warm-up."""

    seconds: tuple[float, ...]
    warm_up: float
    """Seconds of the first call."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def rounds_ms(self) -> list[float]:
        """Milliseconds of each round, for JSON."""
        return [round(1000 * seconds, 2) for seconds in self.seconds]


def synchronize(device: torch.device) -> None:
    """Wait until `device` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each contender once per round, after two warm-up calls each.

    clock: `time.process_time` for what one thread does on a machine that other programs use as well.
    """
    warm_up = {}
    for name, call in contenders.items():
        warm_up[name] = _once(call, device, clock)
        _once(call, device, clock)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            seconds[name].append(_once(call, device, clock))
    return {name: Timing(tuple(taken), warm_up[name]) for name, taken in seconds.items()}


def _once(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    synchronize(device)
    began = clock()
    call()
    synchronize(device)
    return clock() - began


def ratio(one: Timing, other: Timing) -> float:
    """The median of `one` / `other` over the rounds, so that a slow phase that affects both cancels out."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))
