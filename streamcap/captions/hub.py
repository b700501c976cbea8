"""`Hub`: sends each stream's events to all subscriptions, each with its own bounded queue.

Pure and synchronous, for one thread. A websocket or SSE connection passes `wake` to its `Subscription` and takes texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from streamcap.captions.event import Event, LostRange, Payload, StreamSummary, encode, gap_text, hello_text
from streamcap.captions.event_log import EventLog
from streamcap.errors import InputError

QUEUE_MESSAGES = 256
# A subscription that drops this many events in a row without a read is closed.
DROPS_TO_CLOSE = 4 * QUEUE_MESSAGES


class CloseReason(StrEnum):
    """Why the service closed a subscription."""

    SLOW = "slow"
    REMOVED = "removed"
    STOPPING = "stopping"


class UnknownStreamError(InputError):
    """No stream has that name."""


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


@dataclass(slots=True)
class HubStatistics:
    published: int = 0
    closed_slow: int = 0
    stale: int = 0


@dataclass(slots=True)
class Hub:
    """Fan-out and replay of events. `monotonic` and `wall` are clocks in seconds."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    feeds: dict[str, EventLog] = field(default_factory=dict)
    statistics: HubStatistics = field(default_factory=HubStatistics)
    observers: list[Callable[[Event], None]] = field(default_factory=list)
    """Called with every published event. Must be fast and must not raise."""
    max_ahead: int = 0
    """How far `since` may be beyond the newest event: where several services show one feed, another one may have been
    faster. Events up to there are left out."""
    _subscriptions: dict[int, Subscription] = field(default_factory=dict)
    _of_all: dict[int, Subscription] = field(default_factory=dict)
    """Those of all streams."""
    _of_stream: dict[str, dict[int, Subscription]] = field(default_factory=dict)
    """Those that name a stream: an event must not cost time for each viewer of another one."""

    def add(self, feed: EventLog) -> None:
        """Add the feed of a new stream."""
        self.feeds[feed.stream] = feed

    def remove(self, stream: str) -> None:
        """Remove a stream; close subscriptions that named streams of which none is left."""
        if self.feeds.pop(stream, None) is None:
            return
        for subscription in list(self._subscriptions.values()):
            named = subscription.options.streams
            if named is not None and stream in named and named.isdisjoint(self.feeds):
                subscription.close(CloseReason.REMOVED, f"stream {stream} was removed")
                self.unsubscribe(subscription)

    def publish(self, payload: Payload, *, live: bool = True) -> Event:
        """Number `payload` and queue it for its subscribers. A stale one (`live` false) is only stored for replay;
        subscribers receive a `gap`."""
        event = self.feeds[payload.stream].number(payload)
        if live:
            self._offer(event)
            return event
        self._count(event)
        self.statistics.stale += 1
        for subscription in self._interested(event.stream):
            subscription.skip(event)
        return event

    def _count(self, event: Event) -> None:
        self.statistics.published += 1
        for observe in self.observers:
            observe(event)

    def _offer(self, event: Event) -> None:
        self._count(event)
        now = self.monotonic()
        for subscription in self._interested(event.stream):
            subscription.offer(event, now)
            if subscription.closed is not None:
                self.unsubscribe(subscription)
                self.statistics.closed_slow += subscription.cause is CloseReason.SLOW

    def relay(self, event: Event) -> bool:
        """Publish an event that another service has numbered; numbers before it become a `gap`. False: its number is
        used already.
        """
        feed = self.feeds[event.stream]
        self.advance(event.stream, event.seq)
        if not feed.insert(event):
            return False
        self._offer(event)
        return True

    def advance(self, stream: str, next_seq: int) -> None:
        """Numbers below `next_seq` that are unused so far are lost: subscribers receive a `gap`."""
        last = self.feeds[stream].last_seq
        if next_seq > last + 1:
            self.skip(stream, next_seq - 1 - last)

    def skip(self, stream: str, count: int) -> None:
        """Use up the next `count` numbers of `stream` for lost events; subscribers receive a `gap`."""
        lost = self.feeds[stream].skip(count)
        for subscription in self._interested(stream):
            subscription.miss(stream, lost)

    def subscribe(
        self, options: SubscribeOptions, wake: Callable[[], None], since: dict[str, int] | int | None = None
    ) -> Subscription:
        """Add a subscription: `hello` first, then the events after `since`, then live events.

        since: the last `seq` received, for each stream or one for all. None: the current status and caption of each
        stream, then live events. Raises InputError for an unknown stream or a `since` in the future.
        """
        names = self._names(options)
        seen = dict.fromkeys(names, since) if isinstance(since, int) else dict(since or {})
        for name, seq in seen.items():
            if name not in self.feeds:
                if options.streams is None:
                    continue  # a subscriber to all streams: one of them is gone
                raise UnknownStreamError(f"no stream is named {name}")
            last = self.feeds[name].last_seq
            if not 0 <= seq <= last + self.max_ahead:
                raise InputError(f"since={seq} is not a past event of stream {name}, whose newest is {last}")
        subscription = Subscription(options, wake)
        subscription.received = {n: seq for n, seq in seen.items() if n in self.feeds and seq > self.feeds[n].last_seq}
        subscription.put(ControlMessage(hello_text([self.summary(name) for name in names], self.wall())))
        for name in names:
            self._catch_up(subscription, name, seen.get(name))
        self._subscriptions[id(subscription)] = subscription
        for table in self._tables(subscription):
            table[id(subscription)] = subscription
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Idempotent."""
        if self._subscriptions.pop(id(subscription), None) is None:
            return
        for table in self._tables(subscription):
            table.pop(id(subscription), None)
        for stream in subscription.options.streams or ():
            if not self._of_stream[stream]:
                del self._of_stream[stream]

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def summary(self, stream: str) -> StreamSummary:
        feed = self.feeds[stream]
        return StreamSummary(stream, feed.state, feed.oldest_seq, feed.last_seq)

    def close(self, reason: str) -> None:
        """Close all subscriptions."""
        for subscription in list(self._subscriptions.values()):
            subscription.close(CloseReason.STOPPING, reason)
            self.unsubscribe(subscription)

    def _interested(self, stream: str) -> list[Subscription]:
        return [*self._of_all.values(), *self._of_stream.get(stream, {}).values()]

    def _tables(self, subscription: Subscription) -> list[dict[int, Subscription]]:
        """Where to find `subscription` for an event."""
        named = subscription.options.streams
        return [self._of_all] if named is None else [self._of_stream.setdefault(stream, {}) for stream in named]

    def _names(self, options: SubscribeOptions) -> list[str]:
        if options.streams is None:
            return list(self.feeds)
        unknown = sorted(options.streams - self.feeds.keys())
        if unknown:
            raise UnknownStreamError(f"no stream is named {', '.join(unknown)}")
        return [name for name in self.feeds if name in options.streams]

    def _catch_up(self, subscription: Subscription, name: str, seq: int | None) -> None:
        feed, options = self.feeds[name], subscription.options
        if seq is None:
            current = feed.current
            if feed.status is not None:
                # Sent with the number before the current caption, or the newest number, so that numbers rise.
                status = encode(current[0].seq - 1 if current else feed.last_seq, feed.status.payload)
                subscription.put(ControlMessage(status.text, status.seq))
            if not current:
                return
            for event in current:
                subscription.put(ControlMessage(event.text, event.seq))
            seq = current[-1].seq
        for missed in feed.since(seq, interim=options.interim and not options.min_interval):
            if isinstance(missed, LostRange):
                subscription.put(ControlMessage(gap_text(name, missed.first, missed.last)))
            else:
                subscription.put(ControlMessage(missed.text, missed.seq))
