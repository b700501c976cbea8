"""`EventLog`: one stream's numbered events and a bounded ring of them to replay."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

from streamcap.captions.caption import Caption
from streamcap.captions.event import Event, Extend, LostRange, Payload, Status, StoredEvent, StreamState, encode

REPLAY_EVENTS = 2048
"""About half an hour of a caption a second, 1 MB a stream; the JSONL has all of them."""

REPLAY_INTERIMS = 512
"""The last minute or so: who comes back at once misses nothing at all."""


class EventLog:
    """Numbers payloads and keeps the newest for those who come back.

    Interim captions get a number like all others but are kept for a short while only: the final that follows says all
    they said.
    """

    def __init__(self, stream: str, *, keep: int = REPLAY_EVENTS, next_seq: int = 1) -> None:
        self.stream = stream
        self.state = StreamState.CONNECTING
        self._next = next_seq
        self._kept: deque[StoredEvent | LostRange] = deque()
        self._interims: deque[StoredEvent] = deque(maxlen=REPLAY_INTERIMS)
        self.status: Event | None = None
        """The newest status, kept however long ago it was: what a newcomer is told first."""
        self._shown: tuple[Event, ...] = ()
        self._keep = keep
        self._forgotten = 0

    @property
    def last_seq(self) -> int:
        return self._next - 1

    @property
    def oldest_seq(self) -> int:
        """The oldest event that can be replayed, or the next to come when there is none."""
        if not self._kept:
            return self._next
        oldest = self._kept[0]
        return oldest.last + 1 if isinstance(oldest, LostRange) else oldest.seq

    @property
    def merge_cues(self) -> tuple[Event, ...]:
        """The newest final, and its newest `extend` if there is one; nothing while the camera is away or has ended."""
        return self._shown

    def number(self, payload: Payload) -> Event:
        """Give `payload` the next number and keep it for replay."""
        event = encode(self._next, payload)
        self._next += 1
        self._show(event)
        kept = StoredEvent(event.seq, event.text)
        if event.is_interim:
            self._interims.append(kept)
        else:
            self._remember(kept)
        return event

    def set_status(self, status: Status) -> None:
        """A status that takes no number: new subscribers receive it first."""
        self._show(encode(self.last_seq, status))

    def refill(self, events: Iterable[Event], next_seq: int) -> None:
        """Take events of an earlier run, in order, as this feed's past; numbering goes on at `next_seq`."""
        for event in events:
            if event.seq > self.last_stored:
                self._remember(StoredEvent(event.seq, event.text))
        self._next = max(self._next, next_seq, self.last_stored + 1)
        # What the earlier run sent besides finals is not to be had again.
        if not self._kept:
            self._forgotten = self._next - 1
            return
        self._forgotten = max(self._forgotten, self._kept[0].seq - 1)
        if self._next > self.last_stored + 1:
            self._remember(LostRange(self.last_stored + 1, self._next - 1))

    def skip(self, count: int) -> LostRange:
        """The next `count` numbers are given to nothing: what they were meant for is lost."""
        lost = LostRange(self._next, self._next + count - 1)
        self._next += count
        self._remember(lost)
        return lost

    @property
    def last_stored(self) -> int:
        return self._kept[-1].seq if self._kept else self._forgotten

    def since(self, seq: int, *, interim: bool) -> list[StoredEvent | LostRange]:
        """What came after event `seq`, in order, and what of it is lost; interim captions are left out, and not
        missed, unless `interim`."""
        # Each iterable is in order; the merged list names every number once, or as lost.
        known: Iterable[StoredEvent | LostRange] = (
            heapq.merge(self._kept, self._interims, key=_seq) if interim else self._kept
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

    def _show(self, event: Event) -> None:
        match event.payload:
            case Status(state=state):
                self.state, self.status = state, event
                if state not in (StreamState.LIVE, StreamState.STALLED):
                    self._shown = ()  # the camera was away: what it shows when it is back is another matter
            case Caption(is_final=True):
                self._shown = (event,)
            case Extend():
                self._shown = (*self._shown[:1], event) if self._shown else ()

    def _remember(self, event: StoredEvent | LostRange) -> None:
        self._kept.append(event)
        while len(self._kept) > self._keep:
            self._forgotten = self._kept.popleft().seq


def _seq(event: StoredEvent | LostRange) -> int:
    return event.seq


def _add_lost(events: list[StoredEvent | LostRange], lost: LostRange) -> None:
    """Neighbouring losses are one."""
    if events and isinstance(events[-1], LostRange):
        events[-1] = LostRange(events[-1].first, lost.last)
    else:
        events.append(lost)
