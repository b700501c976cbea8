"""`WriteStatistics`: how long JetStream takes to store what this node writes."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds in seconds."""


class WriteStatistics:
    """Of all writes of one role of a node."""

    def __init__(self) -> None:
        self.refused = 0
        self.repeated = 0
        """Sent again, since JetStream did not answer."""
        self.seconds = 0.0
        """Sum over all stored writes."""
        self._counts = [0] * (len(BOUNDS) + 1)

    def stored(self, seconds: float) -> None:
        """A write has been stored after so long."""
        self.seconds += seconds
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and number of writes up to it, as Prometheus counts them."""
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
