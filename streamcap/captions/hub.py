"""`Hub`: sends each stream's events to all subscriptions. Pure and synchronous, for one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streamcap.captions.event import Event, LostRange, Payload, StreamSummary, encode, gap_text, hello_text
from streamcap.captions.event_log import EventLog
from streamcap.captions.subscription import CloseReason, ControlMessage, SubscribeOptions, Subscription
from streamcap.errors import InputError


class UnknownStreamError(InputError):
    """No stream has that name."""


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
