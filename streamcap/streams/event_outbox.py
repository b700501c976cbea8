"""`EventOutbox`: events that wait, in order, until a disk has taken the finals among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from streamcap.captions.caption import Caption
from streamcap.captions.event import Extend, Payload, Status

# Twenty minutes of a caption a second, about 1 MB.
MAX_EVENTS = 1200


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event without a number as yet."""

    payload: Payload
    live: bool = True

    @property
    def is_final(self) -> bool:
        return isinstance(self.payload, Caption) and self.payload.is_final

    @property
    def is_interim(self) -> bool:
        return isinstance(self.payload, Caption) and not self.payload.is_final


class EventOutbox:
    """Pure; of one thread. Policy when full: the oldest interim is dropped, else the oldest event (DROP_OLDEST).

    While it is `blocked`, an event that says all that one before it said takes its place: the newest status, the newest
    `extend` of a final; and interims are not taken.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self.dropped_finals = 0
        """Ever."""
        self._blocked = False
        self._max_events = max_events
        self._events: deque[Outgoing] = deque()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def blocked(self) -> bool:
        """Whether it will take long until these are sent."""
        return self._blocked

    @blocked.setter
    def blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        if blocked:
            self._thin()

    @property
    def finals(self) -> int:
        return sum(event.is_final for event in self._events)

    def put(self, event: Outgoing) -> None:
        self._events.append(event)
        if self.blocked:
            self._thin()
        if len(self._events) > self._max_events:
            self._drop()

    def take(self, most: int) -> list[Outgoing]:
        """The oldest, at most so many."""
        return [self._events.popleft() for _ in range(min(most, len(self._events)))]

    def put_back(self, events: Iterable[Outgoing]) -> None:
        """What was taken, and could not be sent, is the oldest again."""
        self._events.extendleft(reversed(list(events)))
        while len(self._events) > self._max_events:
            self._drop()

    def _thin(self) -> None:
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
            # An `extend` of a final that nobody got would tell of what is unknown.
            while self._events and isinstance(self._events[0].payload, Extend):
                self._events.popleft()
