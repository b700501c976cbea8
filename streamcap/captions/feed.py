"""`Feed`: one stream's numbered events and a bounded ring of them to replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from streamcap.captions.event import Event, Kept, Payload, Status, StreamState, encode

REPLAY_EVENTS = 2048
"""About half an hour of a caption a second, 1 MB a stream; the JSONL has all of them."""


class Feed:
    """Numbers payloads and keeps the newest for those who come back.

    Interim captions get a number like all others but are not kept: the final that follows says all they said.
    """

    def __init__(self, stream: str, *, keep: int = REPLAY_EVENTS, next_seq: int = 1) -> None:
        self.stream = stream
        self.state = StreamState.CONNECTING
        self._next = next_seq
        self._kept: deque[Kept] = deque()
        self.status: Event | None = None
        """The newest status, kept however long ago it was: what a newcomer is told first."""
        self._keep = keep
        self._forgotten = 0

    @property
    def last_seq(self) -> int:
        return self._next - 1

    @property
    def oldest_seq(self) -> int:
        """The oldest event that can be replayed, or the next to come when there is none."""
        return self._kept[0].seq if self._kept else self._next

    def number(self, payload: Payload) -> Event:
        """Give `payload` the next number and keep it for replay."""
        event = encode(self._next, payload)
        self._next += 1
        if isinstance(payload, Status):
            self.state, self.status = payload.state, event
        if not event.is_interim:
            self._remember(event)
        return event

    def refill(self, events: Iterable[Event], next_seq: int) -> None:
        """Take events of an earlier run, in order, as this feed's past; numbering goes on at `next_seq`."""
        for event in events:
            if event.seq > self.last_kept:
                self._remember(event)
        self._next = max(self._next, next_seq, self.last_kept + 1)
        # What the earlier run sent besides finals is not to be had again.
        if self._kept:
            self._forgotten = max(self._forgotten, self._kept[0].seq - 1)

    @property
    def last_kept(self) -> int:
        return self._kept[-1].seq if self._kept else self._forgotten

    def since(self, seq: int) -> tuple[tuple[int, int] | None, list[Kept]]:
        """What came after event `seq`: the range that is lost, if any, and the kept events in order."""
        missing = (seq + 1, self._forgotten) if seq < self._forgotten else None
        return missing, [event for event in self._kept if event.seq > seq]

    def _remember(self, event: Event) -> None:
        self._kept.append(Kept(event.seq, event.text))
        while len(self._kept) > self._keep:
            self._forgotten = self._kept.popleft().seq
