"""`Hub`: every stream's feed, and every subscriber's own bounded queue.

Pure and synchronous, of one thread: a shell (websocket, SSE) gives `Subscription` a `wake` to call and takes texts.
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
# A subscriber that has lost this many queue-fulls without reading once is given up.
DROPS_TO_CLOSE = 4 * QUEUE_MESSAGES


class CloseReason(StrEnum):
    """Why a subscription was closed by this side."""

    SLOW = "slow"
    REMOVED = "removed"
    STOPPING = "stopping"


class UnknownStreamError(InputError):
    """No stream has that name."""


class Message(Protocol):
    """One JSON text for one subscriber; `seq` is None for what is of this connection alone (hello, gap)."""

    @property
    def seq(self) -> int | None: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """A message outside the bounded part of a queue: a greeting, or an event replayed."""

    text: str
    seq: int | None = None


@dataclass(slots=True, eq=False)
class _Gap:
    """Stands in the queue where events were dropped."""

    stream: str
    first: int
    last: int
    seq: None = None

    @property
    def text(self) -> str:
        return gap_text(self.stream, self.first, self.last)


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """What a subscriber wants."""

    streams: frozenset[str] | None = None
    """Names, or None for all, those to come included."""
    interim: bool = True
    min_interval: float = 0.0
    """Seconds between two interim messages of one stream; finals are never held back."""
    limit: int = QUEUE_MESSAGES


@dataclass(slots=True)
class SubscriptionStatistics:
    interim_dropped: int = 0
    finals_dropped: int = 0


class Subscription:
    """One subscriber's queue. Full, it drops interims, then the oldest event (a `gap` takes the place of either);
    a subscriber that never reads is closed: `closed` then says why.

    `wake` is called, on the publisher's thread, whenever there is something to take.
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

    def __len__(self) -> int:
        return len(self._queue)

    def take(self, most: int | None = None) -> list[str]:
        """Waiting messages as JSON texts, oldest first: all, or at most so many."""
        return [message.text for message in self.take_messages(most)]

    def take_messages(self, most: int | None = None) -> list[Message]:
        """Waiting messages, oldest first: all, or at most so many."""
        self._drops = 0
        taken: list[Event | _Gap | ControlMessage]
        if most is None or most >= len(self._queue):
            taken = list(self._queue)
            self._queue.clear()
            self._events = 0
        else:
            taken = [self._queue.popleft() for _ in range(most)]
            self._events -= sum(isinstance(message, Event) for message in taken)
        return [*taken]

    def put(self, message: ControlMessage) -> None:
        """Queue a message whatever the bound: hello, and what is replayed when the subscription begins."""
        self._queue.append(message)
        self._wake()

    def offer(self, event: Event, now: float) -> None:
        """Queue `event` if it is wished for, dropping by the policy above when full."""
        if not self._wants(event) or (event.is_interim and not self._is_due(event, now)):
            return
        if self._events >= self.options.limit and not self._make_room(event):
            return
        self._queue.append(event)
        self._events += 1
        self._wake()

    def skip(self, event: Event) -> None:
        """`event` is not for live viewers: a `gap` says so to those who would have had it."""
        if self._wants(event):
            self._miss(event.stream, event.seq, event.seq)
            self._wake()

    def miss(self, stream: str, lost: LostRange) -> None:
        """Nobody gets the events `lost` of `stream`: a `gap` says so."""
        if self.closed is None and (self.options.streams is None or stream in self.options.streams):
            self._miss(stream, lost.first, lost.last)
            self._wake()

    def close(self, cause: CloseReason, reason: str) -> None:
        """End it; `take` still gives what waits."""
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

    def _make_room(self, event: Event) -> bool:
        """Whether `event` may now be queued."""
        self._drops += 1
        if self._drops > DROPS_TO_CLOSE:
            self.close(CloseReason.SLOW, "too slow: nothing was read for a long time")
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
        """A gap at the end of the queue."""
        before = self._neighbour(stream, range(len(self._queue) - 1, -1, -1))
        if isinstance(before, _Gap):
            before.last = last
        else:
            self._queue.append(_Gap(stream, first, last))

    def _replace_by_gap(self, index: int, event: Event) -> None:
        """One with the gaps before and behind it, so that between two gaps there is always an event."""
        before = self._neighbour(event.stream, range(index - 1, -1, -1))
        behind = self._neighbour(event.stream, range(index + 1, len(self._queue)))
        gap = before if isinstance(before, _Gap) else _Gap(event.stream, event.seq, event.seq)
        gap.last = event.seq
        if isinstance(behind, _Gap):
            gap.last = behind.last
            self._queue.remove(behind)
        if gap is before:
            del self._queue[index]
        else:
            self._queue[index] = gap

    def _neighbour(self, stream: str, places: Iterable[int]) -> Event | _Gap | None:
        """What of `stream` stands first in `places`."""
        for place in places:
            item = self._queue[place]
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
    """Fan-out and replay. `monotonic` and `wall` are clocks in seconds."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    feeds: dict[str, EventLog] = field(default_factory=dict)
    statistics: HubStatistics = field(default_factory=HubStatistics)
    observers: list[Callable[[Event], None]] = field(default_factory=list)
    """Called with every event as it is published; they must be quick and never raise."""
    _subscriptions: dict[int, Subscription] = field(default_factory=dict)

    def add(self, feed: EventLog) -> None:
        """A new stream's feed."""
        self.feeds[feed.stream] = feed

    def remove(self, stream: str) -> None:
        """Forget a stream; subscribers are closed when it was the last of those they named."""
        if self.feeds.pop(stream, None) is None:
            return
        for subscription in list(self._subscriptions.values()):
            named = subscription.options.streams
            if named is not None and stream in named and named.isdisjoint(self.feeds):
                subscription.close(CloseReason.REMOVED, f"stream {stream} was removed")

    def publish(self, payload: Payload, *, live: bool = True) -> Event:
        """Number `payload` and queue it for all who want it; a stale one (`live` false) is only kept for replay, and
        a `gap` to those who are there."""
        event = self.feeds[payload.stream].number(payload)
        self.statistics.published += 1
        for observe in self.observers:
            observe(event)
        if not live:
            self.statistics.stale += 1
            for subscription in list(self._subscriptions.values()):
                subscription.skip(event)
            return event
        now = self.monotonic()
        for subscription in list(self._subscriptions.values()):
            subscription.offer(event, now)
            if subscription.closed is not None:
                self._subscriptions.pop(id(subscription), None)
                self.statistics.closed_slow += subscription.cause is CloseReason.SLOW
        return event

    def skip(self, stream: str, count: int) -> None:
        """`count` events of `stream` are lost: they take its next numbers, and a `gap` tells everyone."""
        lost = self.feeds[stream].skip(count)
        for subscription in list(self._subscriptions.values()):
            subscription.miss(stream, lost)

    def subscribe(
        self, options: SubscribeOptions, wake: Callable[[], None], since: dict[str, int] | int | None = None
    ) -> Subscription:
        """A new subscriber: `hello` first, then what came after `since`, then all that comes.

        `since`: the last `seq` seen, of each stream or of every one; None: each stream's present state and the caption
        on screen, then what comes. Raises InputError for an unknown stream or a `since` that lies in the future.
        """
        names = self._names(options)
        seen = dict.fromkeys(names, since) if isinstance(since, int) else dict(since or {})
        for name, seq in seen.items():
            if name not in self.feeds:
                if options.streams is None:
                    continue  # who wants all there are does not mind that one is gone
                raise UnknownStreamError(f"no stream is named {name}")
            last = self.feeds[name].last_seq
            if not 0 <= seq <= last:
                raise InputError(f"since={seq} is not a past event of stream {name}, whose newest is {last}")
        subscription = Subscription(options, wake)
        subscription.put(ControlMessage(hello_text([self.summary(name) for name in names], self.wall())))
        for name in names:
            self._catch_up(subscription, name, seen.get(name))
        self._subscriptions[id(subscription)] = subscription
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Idempotent."""
        self._subscriptions.pop(id(subscription), None)

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def summary(self, stream: str) -> StreamSummary:
        feed = self.feeds[stream]
        return StreamSummary(stream, feed.state, feed.oldest_seq, feed.last_seq)

    def close(self, reason: str) -> None:
        """Close every subscriber."""
        for subscription in list(self._subscriptions.values()):
            subscription.close(CloseReason.STOPPING, reason)
        self._subscriptions.clear()

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
            shown = feed.merge_cues
            if feed.status is not None:
                # Told under the newest number, or the one before what is shown: numbers rise, and go on from there.
                status = encode(shown[0].seq - 1 if shown else feed.last_seq, feed.status.payload)
                subscription.put(ControlMessage(status.text, status.seq))
            if not shown:
                return
            for event in shown:
                subscription.put(ControlMessage(event.text, event.seq))
            seq = shown[-1].seq
        for missed in feed.since(seq, interim=options.interim and not options.min_interval):
            if isinstance(missed, LostRange):
                subscription.put(ControlMessage(gap_text(name, missed.first, missed.last)))
            else:
                subscription.put(ControlMessage(missed.text, missed.seq))
