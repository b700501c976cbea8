"""`Subscription`: one subscriber's bounded queue of messages.

Pure and synchronous, for one thread. A websocket or SSE connection gives it `wake`, and takes texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from streamcap.captions.event import Event, LostRange, gap_text

QUEUE_MESSAGES = 256
# A subscription that drops this many events in a row without a read is closed.
DROPS_TO_CLOSE = 4 * QUEUE_MESSAGES


class CloseReason(StrEnum):
    """Why the service closed a subscription."""

    SLOW = "slow"
    REMOVED = "removed"
    STOPPING = "stopping"


class Message(Protocol):
    """One JSON text for one subscriber. `seq` is None for messages of this connection only (hello, gap)."""

    @property
    def seq(self) -> int | None: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """A message that does not count against the queue's bound: hello, or a replayed event."""

    text: str
    seq: int | None = None


@dataclass(slots=True, eq=False)
class _Gap:
    """Takes the place of dropped events in the queue."""

    stream: str
    first: int
    last: int
    seq: None = None

    @property
    def text(self) -> str:
        return gap_text(self.stream, self.first, self.last)


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """What a subscriber receives."""

    streams: frozenset[str] | None = None
    """Stream names; None for all streams, future ones included."""
    interim: bool = True
    min_interval: float = 0.0
    """Minimum seconds between two interim captions of one stream. Finals are never delayed."""
    limit: int = QUEUE_MESSAGES


@dataclass(slots=True)
class SubscriptionStatistics:
    interim_dropped: int = 0
    finals_dropped: int = 0


class Subscription:
    """One subscriber's queue. Policy when full: drop an interim, else the oldest event; a `gap` takes its place.

    A subscription that is never read is closed; `closed` has the reason. `wake` is called on the publisher's thread
    whenever there are messages to take.
    """

    def __init__(self, options: SubscribeOptions, wake: Callable[[], None]) -> None:
        self.options = options
        self.closed: str | None = None
        self.cause: CloseReason | None = None
        self.statistics = SubscriptionStatistics()
        self._wake = wake
        self._queue: deque[Event | _Gap | ControlMessage] = deque()
        self._events = 0
        self._drops = 0
        self._interim_at: dict[str, float] = {}
        self.received: dict[str, int] = {}
        """Events up to this number, which are still to come here, were received elsewhere."""

    def __len__(self) -> int:
        return len(self._queue)

    def take(self, max_messages: int | None = None) -> list[str]:
        """Remove and return waiting messages as JSON texts, oldest first: all, or at most `max_messages`."""
        return [message.text for message in self.take_messages(max_messages)]

    def take_messages(self, max_messages: int | None = None) -> list[Message]:
        """Remove and return waiting messages, oldest first: all, or at most `max_messages`."""
        self._drops = 0
        taken: list[Event | _Gap | ControlMessage]
        if max_messages is None or max_messages >= len(self._queue):
            taken = list(self._queue)
            self._queue.clear()
            self._events = 0
        else:
            taken = [self._queue.popleft() for _ in range(max_messages)]
            self._events -= sum(isinstance(message, Event) for message in taken)
        return [*taken]

    def put(self, message: ControlMessage) -> None:
        """Queue a message regardless of the bound: hello, and replayed events."""
        self._queue.append(message)
        self._wake()

    def offer(self, event: Event, now: float) -> None:
        """Queue `event` if the options include it. When full, drop by the policy above."""
        if self.received and event.seq <= self.received.get(event.stream, 0):
            return
        if not self._wants(event) or (event.is_interim and not self._is_due(event, now)):
            return
        if self._events >= self.options.limit and not self._drop_for(event):
            return
        self._queue.append(event)
        self._events += 1
        self._wake()

    def skip(self, event: Event) -> None:
        """Queue a `gap` instead of `event`, which is too old for live viewers."""
        if self._wants(event):
            self._miss(event.stream, event.seq, event.seq)
            self._wake()

    def miss(self, stream: str, lost: LostRange) -> None:
        """Queue a `gap` for the lost events of `stream`."""
        first = max(lost.first, self.received.get(stream, 0) + 1)
        named = self.options.streams
        if self.closed is None and first <= lost.last and (named is None or stream in named):
            self._miss(stream, first, lost.last)
            self._wake()

    def close(self, cause: CloseReason, reason: str) -> None:
        """Close the subscription; `take` still returns waiting messages."""
        if self.closed is None:
            self.closed = reason
            self.cause = cause
            self._wake()

    def _wants(self, event: Event) -> bool:
        streams = self.options.streams
        return (
            self.closed is None
            and (streams is None or event.stream in streams)
            and (self.options.interim or not event.is_interim)
        )

    def _is_due(self, event: Event, now: float) -> bool:
        if now - self._interim_at.get(event.stream, -1e9) < self.options.min_interval:
            return False
        self._interim_at[event.stream] = now
        return True

    def _drop_for(self, event: Event) -> bool:
        """Drop something by the policy. Returns whether `event` may be queued."""
        self._drops += 1
        if self._drops > DROPS_TO_CLOSE:
            self.close(CloseReason.SLOW, "too slow: no message was read for a long time")
            return False
        if event.is_interim:
            self.statistics.interim_dropped += 1
            self._miss(event.stream, event.seq, event.seq)
            return False
        waiting = [(index, item) for index, item in enumerate(self._queue) if isinstance(item, Event)]
        index, dropped = next(((i, item) for i, item in waiting if item.is_interim), waiting[0])
        if dropped.is_interim:
            self.statistics.interim_dropped += 1
        else:
            self.statistics.finals_dropped += 1
        self._events -= 1
        self._replace_by_gap(index, dropped)
        return True

    def _miss(self, stream: str, first: int, last: int) -> None:
        """Add a gap at the end of the queue."""
        before = self._neighbor(stream, range(len(self._queue) - 1, -1, -1))
        if isinstance(before, _Gap):
            before.last = last
        else:
            self._queue.append(_Gap(stream, first, last))

    def _replace_by_gap(self, index: int, event: Event) -> None:
        """Replace an event by a gap, joined with the gaps before and after it."""
        before = self._neighbor(event.stream, range(index - 1, -1, -1))
        after = self._neighbor(event.stream, range(index + 1, len(self._queue)))
        gap = before if isinstance(before, _Gap) else _Gap(event.stream, event.seq, event.seq)
        gap.last = event.seq
        if isinstance(after, _Gap):
            gap.last = after.last
            self._queue.remove(after)
        if gap is before:
            del self._queue[index]
        else:
            self._queue[index] = gap

    def _neighbor(self, stream: str, indexes: Iterable[int]) -> Event | _Gap | None:
        """The first item of `stream` at `indexes`."""
        for index in indexes:
            item = self._queue[index]
            if not isinstance(item, ControlMessage) and item.stream == stream:
                return item
        return None
