from __future__ import annotations

from streamcap.captions.event import Extend, Status, StreamState
from streamcap.streams.storage.event_outbox import EventOutbox, Outgoing
from tests.captions.fakes import caption


def final(number: int) -> Outgoing:
    return Outgoing(caption(number=number, start=float(number)))


def interim(number: int) -> Outgoing:
    return Outgoing(caption(number=number, is_final=False))


def extend(number: int, end: float) -> Outgoing:
    return Outgoing(Extend("door", f"door-{number}", end))


def status(reason: str) -> Outgoing:
    return Outgoing(Status("door", StreamState.LIVE, reason))


def test_full_outbox_drops_interims_then_oldest() -> None:
    outbox = EventOutbox(max_events=3)
    for event in (final(1), extend(1, 3.0), interim(2), final(2)):
        outbox.put(event)
    assert outbox.dropped_finals == 0
    outbox.put(final(3))
    # The first final is dropped, with its extend.
    assert outbox.dropped_finals == 1
    assert outbox.take(9) == [final(2), final(3)]


def test_blocked_outbox_keeps_the_newest_only() -> None:
    outbox = EventOutbox()
    for event in (status("a"), final(1), interim(2), status("b"), extend(1, 3.0)):
        outbox.put(event)
    outbox.blocked = True
    for event in (extend(1, 4.0), interim(3), status("c")):
        outbox.put(event)
    assert outbox.take(9) == [final(1), extend(1, 4.0), status("c")]


def test_put_back_is_first_again() -> None:
    outbox = EventOutbox(max_events=3)
    outbox.put(final(1))
    outbox.put(final(2))
    taken = outbox.take(2)
    outbox.put(final(3))
    outbox.put(final(4))
    outbox.put_back(taken)
    assert outbox.take(9) == [final(2), final(3), final(4)]
    assert outbox.dropped_finals == 1


def test_extend_replaces_one_of_the_same_final() -> None:
    outbox = EventOutbox(coalesce=True)
    for event in (final(1), extend(1, 3.0), extend(1, 4.0)):
        outbox.put(event)
    assert not outbox.only_extends
    assert outbox.take(9) == [final(1), extend(1, 4.0)]
    outbox.put(extend(1, 5.0))
    assert outbox.only_extends
    outbox.put(extend(2, 6.0))
    assert outbox.take(9) == [extend(1, 5.0), extend(2, 6.0)]
