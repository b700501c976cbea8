"""`EventLog`: numbers one stream's events and stores the newest for replay."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

from streamcap.captions.caption import Caption
from streamcap.captions.event import Event, Extend, LostRange, Payload, Status, StoredEvent, StreamState, encode
from streamcap.captions.replay import REPLAY_EVENTS, REPLAY_INTERIMS


class EventLog:
    """Numbers payloads and stores the newest for replay.

    Interim captions are numbered too, but stored for a short time only: the final that follows replaces them.
    """

    def __init__(self, stream: str, *, keep: int = REPLAY_EVENTS, next_seq: int = 1) -> None:
        self.stream = stream
        self.state = StreamState.CONNECTING
        self._next = next_seq
        self._stored: deque[StoredEvent | LostRange] = deque()
        self._interims: deque[StoredEvent] = deque(maxlen=REPLAY_INTERIMS)
        self.status: Event | None = None
        """The newest status, however old: new subscribers receive it first."""
        self._current: tuple[Event, ...] = ()
        self._max_stored = keep
        self._forgotten = 0

    @property
    def last_seq(self) -> int:
        return self._next - 1

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest event that can be replayed, or of the next event if there is none."""
        if not self._stored:
            return self._next
        oldest = self._stored[0]
        return oldest.last + 1 if isinstance(oldest, LostRange) else oldest.seq

    @property
    def current(self) -> tuple[Event, ...]:
        """The newest final and its newest `extend`, if any. Empty while the camera is disconnected or ended, and
        after a final without text."""
        return self._current

    def number(self, payload: Payload) -> Event:
        """Give `payload` the next number and store it for replay."""
        event = encode(self._next, payload)
        self._take(event)
        return event

    def insert(self, event: Event) -> bool:
        """Store an event that another service has numbered. False: its number is used already. Pair with `skip` for
        numbers before it that are not known.
        """
        if event.seq < self._next:
            return False
        self._take(event)
        return True

    def set_status(self, status: Status) -> None:
        """A status that takes no number: new subscribers receive it first."""
        self._update_current(encode(self.last_seq, status))

    def clear_current(self) -> None:
        """The current caption is no longer true, and none replaces it."""
        self._current = ()

    def refill(self, events: Iterable[Event], next_seq: int) -> None:
        """Load events of an earlier run, in order; numbering continues at `next_seq`."""
        for event in events:
            if event.seq > self.last_stored:
                self._store(StoredEvent(event.seq, event.text))
        self._next = max(self._next, next_seq, self.last_stored + 1)
        # Events of the earlier run other than finals are lost.
        if not self._stored:
            self._forgotten = self._next - 1
            return
        self._forgotten = max(self._forgotten, self._stored[0].seq - 1)
        if self._next > self.last_stored + 1:
            self._store(LostRange(self.last_stored + 1, self._next - 1))

    def skip(self, count: int) -> LostRange:
        """Use up the next `count` numbers for lost events."""
        lost = LostRange(self._next, self._next + count - 1)
        self._next += count
        self._store(lost)
        return lost

    @property
    def last_stored(self) -> int:
        return self._stored[-1].seq if self._stored else self._forgotten

    def since(self, seq: int, *, interim: bool) -> list[StoredEvent | LostRange]:
        """Events after `seq`, in order, and ranges of lost events. Without `interim`, interim captions are left out and
        not counted as lost."""
        # Both are sorted. The result covers each number once, as an event or as lost.
        known: Iterable[StoredEvent | LostRange] = (
            heapq.merge(self._stored, self._interims, key=_seq) if interim else self._stored
        )
        events: list[StoredEvent | LostRange] = []
        if seq < self._forgotten:
            events.append(LostRange(seq + 1, self._forgotten))
            seq = self._forgotten
        for event in known:
            if event.seq <= seq:
                continue
            if isinstance(event, LostRange) or (interim and event.seq > seq + 1):
                _add_lost(events, LostRange(seq + 1, event.seq if isinstance(event, LostRange) else event.seq - 1))
            if isinstance(event, StoredEvent):
                events.append(event)
            seq = event.seq
        return events

    def _take(self, event: Event) -> None:
        """Store the newest event."""
        self._next = event.seq + 1
        self._update_current(event)
        stored = StoredEvent(event.seq, event.text)
        if event.is_interim:
            self._interims.append(stored)
        else:
            self._store(stored)

    def _update_current(self, event: Event) -> None:
        match event.payload:
            case Status(state=state):
                self.state, self.status = state, event
                if state not in (StreamState.LIVE, StreamState.STALLED):
                    self._current = ()  # after a disconnection the old caption may be wrong
            case Caption(is_final=True, text=text):
                self._current = (event,) if text else ()  # without text it only ends an interim
            case Extend():
                self._current = (*self._current[:1], event) if self._current else ()

    def _store(self, event: StoredEvent | LostRange) -> None:
        self._stored.append(event)
        while len(self._stored) > self._max_stored:
            self._forgotten = self._stored.popleft().seq


def _seq(event: StoredEvent | LostRange) -> int:
    return event.seq


def _add_lost(events: list[StoredEvent | LostRange], lost: LostRange) -> None:
    """Append `lost`, joined with a lost range before it."""
    if events and isinstance(events[-1], LostRange):
        events[-1] = LostRange(events[-1].first, lost.last)
    else:
        events.append(lost)
