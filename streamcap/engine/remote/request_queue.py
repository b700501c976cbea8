"""`RequestQueue`: which sample of which stream is sent next. Pure."""

from __future__ import annotations

from streamcap.engine.fair_share import FairShare
from streamcap.engine.outcome import Encoded


class RequestQueue:
    """At most `max_in_flight` samples in flight, one of each stream, and one waiting of each stream.

    Policy: a newer sample replaces the waiting one (KEEP_LATEST), counted in `superseded`. The stream that had the
    fewest requests is next.
    """

    def __init__(self, max_in_flight: int, superseded: dict[str, int] | None = None) -> None:
        self.superseded: dict[str, int] = {} if superseded is None else superseded
        self._max_in_flight = max_in_flight
        self._waiting: dict[str, Encoded] = {}
        self._in_flight: set[str] = set()
        self._share = FairShare()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def put(self, encoded: Encoded) -> None:
        stream = encoded.sample.stream
        waiting = self._waiting.get(stream)
        if waiting is not None:
            self.superseded[stream] = self.superseded.get(stream, 0) + 1
            if waiting.sample.submitted > encoded.sample.submitted:
                return
        self._waiting[stream] = encoded

    def is_waiting(self, stream: str) -> bool:
        return stream in self._waiting

    def is_in_flight(self, stream: str) -> bool:
        return stream in self._in_flight

    def take(self) -> Encoded | None:
        """The next sample, which is in flight until `done`; None if none may be sent now."""
        ready = [stream for stream in self._waiting if stream not in self._in_flight]
        if not ready or len(self._in_flight) >= self._max_in_flight:
            return None
        stream = self._share.choose(ready)
        self._share.charge(stream, 1)
        self._in_flight.add(stream)
        return self._waiting.pop(stream)

    def done(self, stream: str) -> None:
        self._in_flight.discard(stream)

    def drop(self, stream: str) -> None:
        """Remove the waiting sample of `stream`, since a newer one needs no request."""
        if self._waiting.pop(stream, None) is not None:
            self.superseded[stream] = self.superseded.get(stream, 0) + 1

    def drop_waiting(self) -> list[Encoded]:
        """Remove and return the waiting samples of all streams that have none in flight."""
        streams = [stream for stream in self._waiting if stream not in self._in_flight]
        return [self._waiting.pop(stream) for stream in streams]

    def forget(self, stream: str) -> None:
        """Drop what a removed stream has waiting; a request in flight ends by itself."""
        self._waiting.pop(stream, None)
        self.superseded.pop(stream, None)
        self._share.forget(stream)
