"""`Balance`: how many streams a node should run, when it takes one more, and when it gives one back. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

GIVE_BACK_SECONDS = 1.0
"""Seconds between two streams that a node gives back: each costs its viewers a reconnection to the camera."""
SETTLE_SECONDS = 4.0
"""How long a surplus must last before the first stream is given back: a node that restarts returns within this time."""
BUSY = 0.85
"""Share of the CPU above which a node takes no more streams."""


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """The load of one node in one role, as it reports it."""

    id: str
    capacity: int
    """Streams that it can run."""
    streams: int
    """Streams that it runs."""
    is_closed: bool = False
    """It takes no streams: it is starting, or hands its streams over."""


def fair_share(node: str, nodes: Iterable[NodeLoad], streams: int) -> int:
    """How many of `streams` node `node` should run: in proportion to capacity, rounded up, and never above its own."""
    ready = {load.id: load.capacity for load in nodes if not load.is_closed and load.capacity > 0}
    if node not in ready:
        return 0
    return min(ready[node], math.ceil(streams * ready[node] / sum(ready.values())))


class Balance:
    """Decides for one node, by the loads of all nodes of its site. `monotonic` in seconds.

    A node takes streams up to its share; beyond it, up to its capacity, only what nobody else takes. It gives the
    surplus back one by one while another node is below its share, so that a joining node gets its part and no more.
    """

    def __init__(self, node: str, monotonic: Callable[[], float]) -> None:
        self.node = node
        self._monotonic = monotonic
        self._surplus_since: float | None = None
        self._gave_at = -math.inf

    def may_take(self, loads: Iterable[NodeLoad], streams: int, *, cpu: float = 0.0, waiting_s: float = 0.0) -> bool:
        """Whether to take one more stream now.

        streams: of the site. cpu: used share of this machine, 0 to 1. waiting_s: how long streams have waited for a
        node.
        """
        loads = list(loads)
        own = next((load for load in loads if load.id == self.node), None)
        if own is None or own.is_closed or own.streams >= own.capacity or (cpu >= BUSY and own.streams > 0):
            return False
        return own.streams < fair_share(self.node, loads, streams) or waiting_s >= SETTLE_SECONDS

    def should_give_back(self, loads: Iterable[NodeLoad], streams: int) -> bool:
        """Whether to give one stream back now. Returns True at most once in GIVE_BACK_SECONDS."""
        loads = list(loads)
        own = next((load for load in loads if load.id == self.node), None)
        others_want = any(load.streams < fair_share(load.id, loads, streams) for load in loads if load.id != self.node)
        if own is None or not others_want or own.streams <= fair_share(self.node, loads, streams):
            self._surplus_since = None
            return False
        now = self._monotonic()
        if self._surplus_since is None:
            self._surplus_since = now
        if now - self._surplus_since < SETTLE_SECONDS or now - self._gave_at < GIVE_BACK_SECONDS:
            return False
        self._gave_at = now
        return True
