"""`Credit`: how many samples each ingest node may have at an engine at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable

HELD_SECONDS = 0.5
"""An engine holds the samples that it captions in this time. More would only wait, while newer ones come."""
FIRST_SAMPLES = 8
"""Samples that it holds before its speed is known."""
MIN_SAMPLES = 2
"""One runs while the next one waits."""
OWNER_SECONDS = 3.0
"""An ingest node that has been silent for this long counts as gone."""
SMOOTHING = 0.5


class Credit:
    """Divides what an engine can hold among the ingest nodes, by the number of their streams: all streams
    get the same.

    Parameters:
        max_samples: the most that the engine holds, however fast it is.
        monotonic: seconds.
    """

    def __init__(self, max_samples: int, monotonic: Callable[[], float]) -> None:
        self.rows_per_second = 0.0
        """Samples that the engine captions a second while it is busy; 0: not known yet."""
        self._max_samples = max_samples
        self._monotonic = monotonic
        self._measured = (0, 0.0)
        self._owners: dict[str, tuple[float, int]] = {}

    @property
    def samples(self) -> int:
        """How many samples the engine should hold."""
        held = round(self.rows_per_second * HELD_SECONDS) if self.rows_per_second else FIRST_SAMPLES
        return max(MIN_SAMPLES, min(held, self._max_samples))

    def measure(self, samples: int, busy_seconds: float) -> None:
        """Update the speed from the engine's counters since its start."""
        rows, seconds = samples - self._measured[0], busy_seconds - self._measured[1]
        if rows <= 0 or seconds <= 0:
            return
        self._measured = samples, busy_seconds
        before, now = self.rows_per_second, rows / seconds
        self.rows_per_second = now if not before else before + SMOOTHING * (now - before)

    def set_demand(self, owner: str, streams: int) -> bool:
        """Set the number of streams that ingest node `owner` has for this engine. Returns whether it changed."""
        self._prune()
        before = self._owners.get(owner, (0.0, 0))[1]
        if streams > 0:
            self._owners[owner] = self._monotonic(), streams
        else:
            self._owners.pop(owner, None)
        return streams != before

    def windows(self) -> dict[str, int]:
        """By ingest node: how many samples it may have here at a time."""
        self._prune()
        total, held = sum(streams for _, streams in self._owners.values()), self.samples
        return {owner: max(1, held * streams // total) for owner, (_, streams) in self._owners.items()}

    def _prune(self) -> None:
        now = self._monotonic()
        self._owners = {owner: seen for owner, seen in self._owners.items() if now - seen[0] < OWNER_SECONDS}
