"""`EventOutbox`: events that wait, in order, until the finals among them are on the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from streamcap.captions.caption import Caption
from streamcap.captions.event import Extend, Payload, Status

# 20 minutes at one caption a second; about 1 MB.
MAX_EVENTS = 1200


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event that has no number yet."""

    payload: Payload
    live: bool = True

    @property
    def is_final(self) -> bool:
        return isinstance(self.payload, Caption) and self.payload.is_final

    @property
    def is_interim(self) -> bool:
        return isinstance(self.payload, Caption) and not self.payload.is_final


class EventOutbox:
    """Pure; for one thread. Policy when full: drop the oldest interim, else the oldest event (DROP_OLDEST).

    While it is `blocked`, only the newest status and the newest `extend` of each final are kept, and no interims.

    Parameters:
        coalesce: an `extend` replaces one of the same final that waits as the newest event.
    """

    def __init__(self, max_events: int = MAX_EVENTS, *, coalesce: bool = False) -> None:
        self.dropped_finals = 0
        """Since the start."""
        self._blocked = False
        self._coalesce = coalesce
        self._max_events = max_events
        self._events: deque[Outgoing] = deque()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def blocked(self) -> bool:
        """Whether the disk fails or hangs, so that events wait for long."""
        return self._blocked

    @blocked.setter
    def blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        if blocked:
            self._compact()

    @property
    def finals(self) -> int:
        return sum(event.is_final for event in self._events)

    @property
    def only_extends(self) -> bool:
        """Whether an `extend` waits, and nothing else."""
        return len(self._events) == 1 and isinstance(self._events[0].payload, Extend)

    def put(self, event: Outgoing) -> None:
        if self._coalesce and self._events and _extends_same(self._events[-1].payload, event.payload):
            self._events.pop()
        self._events.append(event)
        if self.blocked:
            self._compact()
        if len(self._events) > self._max_events:
            self._drop()

    def take(self, max_events: int) -> list[Outgoing]:
        """Remove and return the oldest events, at most `max_events`."""
        return [self._events.popleft() for _ in range(min(max_events, len(self._events)))]

    def put_back(self, events: Iterable[Outgoing]) -> None:
        """Put events that could not be sent back in front."""
        self._events.extendleft(reversed(list(events)))
        while len(self._events) > self._max_events:
            self._drop()

    def _compact(self) -> None:
        newest: set[str] = set()
        kept: deque[Outgoing] = deque()
        for event in reversed(self._events):
            payload = event.payload
            key = "status" if isinstance(payload, Status) else payload.id if isinstance(payload, Extend) else ""
            if event.is_interim or key in newest:
                continue
            if key:
                newest.add(key)
            kept.appendleft(event)
        self._events = kept

    def _drop(self) -> None:
        oldest = next((event for event in self._events if event.is_interim), self._events[0])
        self._events.remove(oldest)
        if oldest.is_final:
            self.dropped_finals += 1
            # Nobody knows the final that this `extend` is about.
            while self._events and isinstance(self._events[0].payload, Extend):
                self._events.popleft()


def _extends_same(one: Payload, other: Payload) -> bool:
    return isinstance(one, Extend) and isinstance(other, Extend) and one.id == other.id
