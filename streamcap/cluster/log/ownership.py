"""`Ownership`: one node's right to write one stream's log, with fencing by the log itself.

Every write names the sequence of the log's newest message. A node that was paused, cut off or too slow is refused,
since another node has written meanwhile, and stops. Nothing here depends on clocks of two machines.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from streamcap.captions.event import Event
from streamcap.streams.counters import Counters

PROGRESS_SECONDS = 1.5
"""Seconds between two progress reports of an owner."""
ACK_WAIT_SECONDS = 4.0
"""Without a report for this long, JetStream gives the stream to another node."""


class OwnerState(StrEnum):
    CLAIMING = "claiming"
    """The first write has not been stored: nothing is published."""
    OWNING = "owning"
    LOST = "lost"
    """Refused: another node continues the stream. Final."""
    RELEASED = "released"
    """Handed over in order. Final."""


class LogEntry(NamedTuple):
    """One message of a stream's log."""

    sequence: int
    """JetStream's sequence of the message."""
    message_id: str
    node: str
    term: int
    """Counts the takeovers of the stream."""
    begin: int
    """`seq` of the first event, or of the next event if it has none: earlier numbers are used or lost."""
    reserved: Counters
    """Where the next owner starts: what this one may have shown lies below."""
    events: tuple[str, ...] = ()
    """JSON texts."""


class Write(NamedTuple):
    """A message to store. The same write may be sent again: no more than one of them can be stored."""

    message_id: str
    expected_last: int
    """Sequence of the newest message of the log; 0: it is empty."""
    node: str
    term: int
    begin: int
    reserved: Counters
    events: tuple[str, ...] = ()


def is_undecided(write: Write, last: LogEntry | None) -> bool:
    """Whether `write`, which was refused, may be stored yet: the newest message `last` is still the one that it names,
    so that another is on its way which no reader sees, perhaps this very write, sent before."""
    return (0 if last is None else last.sequence) == write.expected_last


class NotOwnerError(OSError):
    """Another node continues the stream."""


class Ownership:
    """One owner's state. Pure; `monotonic` in seconds. One write at a time: `take_over`, `write` or `release`, then
    `stored` or `refused`.

    Parameters:
        node: unique for each process.
    """

    def __init__(
        self, stream: str, node: str, monotonic: Callable[[], float], *, ack_wait: float = ACK_WAIT_SECONDS
    ) -> None:
        self.stream = stream
        self.node = node
        self.state = OwnerState.CLAIMING
        self.term = 0
        self.begin = Counters()
        """Where this owner starts. After `take_over`."""
        self.reserved = Counters()
        """As stored in the log."""
        self._monotonic = monotonic
        self._ack_wait = ack_wait
        self._last = 0
        self._writes = 0
        # A process that was killed and starts again must not reuse the ids of its earlier writes.
        self._run = uuid.uuid4().hex[:12]
        self._reported_at = monotonic()
        self._unconfirmed = False

    @property
    def is_lost(self) -> bool:
        return self.state is OwnerState.LOST

    @property
    def may_show(self) -> bool:
        """Whether an interim, which the log does not fence, may be sent now."""
        return self.state is OwnerState.OWNING and not self._unconfirmed and not self._is_late()

    @property
    def must_confirm(self) -> bool:
        """Whether this node was silent for so long that another one may own the stream: the next write finds out."""
        return self.state is OwnerState.OWNING and (self._unconfirmed or self._is_late())

    def report(self) -> bool:
        """Call at every progress report. Returns whether it is allowed: a node that is no owner reports nothing."""
        if self.state in (OwnerState.LOST, OwnerState.RELEASED):
            return False
        self._unconfirmed |= self._is_late()
        self._reported_at = self._monotonic()
        return True

    def take_over(self, last: LogEntry | None, ahead: Callable[[Counters], Counters], first: Counters) -> Write:
        """The claim: the first write, after `last`. `ahead` makes a reservation of counters.

        first: counters known otherwise, of an earlier stream of this name on this node.
        """
        self._require(OwnerState.CLAIMING)
        begin = self.begin = first if last is None else first.union(last.reserved)
        self._last = 0 if last is None else last.sequence
        self.term = 1 if last is None else last.term + 1
        return self._make(begin.seq, ahead(begin), ())

    def write(self, events: Sequence[Event], begin: int, reserved: Counters) -> Write:
        """Events and a reservation. Raises NotOwnerError."""
        self._require(OwnerState.OWNING)
        return self._make(
            events[0].seq if events else begin, self.reserved.union(reserved), tuple(event.text for event in events)
        )

    def release(self, counters: Counters) -> Write:
        """The last write of a handover in order: the next owner starts at `counters`. Raises NotOwnerError."""
        self._require(OwnerState.OWNING)
        return self._make(counters.seq, counters, ())

    def stored(self, write: Write, sequence: int) -> None:
        """`write` is in the log."""
        self._last = sequence
        self.reserved = write.reserved
        self._unconfirmed = False
        if self.state is OwnerState.CLAIMING:
            self.state = OwnerState.OWNING

    def refused(self, write: Write, last: LogEntry | None) -> bool:
        """The log has changed. `last`: its newest message now. Returns whether `write` is in the log after all.

        A claim that is refused may be made again: the earlier owner was faster once more. An owner that is refused is
        none any more.
        """
        if last is not None and last.message_id == write.message_id:
            self.stored(write, last.sequence)
            return True
        if self.state is not OwnerState.CLAIMING:
            self.state = OwnerState.LOST
        return False

    def end(self) -> None:
        """The release is stored, or nothing of this owner may be written any more."""
        if self.state is not OwnerState.LOST:
            self.state = OwnerState.RELEASED

    def _is_late(self) -> bool:
        return self._monotonic() - self._reported_at >= self._ack_wait

    def _require(self, state: OwnerState) -> None:
        if self.state is not state:
            raise NotOwnerError(f"stream {self.stream}: another node continues it (this one: {self.state.value})")

    def _make(self, begin: int, reserved: Counters, events: tuple[str, ...]) -> Write:
        self._writes += 1
        return Write(f"{self._run}:{self._writes}", self._last, self.node, self.term, begin, reserved, events)
