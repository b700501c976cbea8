"""Every order of publish, refuse, lost answer, pause, kill and takeover, against a log that compares and sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamcap.captions.event import encode
from streamcap.cluster.log.ownership import (
    ACK_WAIT_SECONDS,
    LogEntry,
    NotOwnerError,
    Ownership,
    OwnerState,
    Write,
    is_undecided,
)
from streamcap.streams.counters import Counters
from tests.captions.fakes import caption
from tests.examples import examples

NODES = ("a", "b")
# The captions of these tests are of epoch 0.
FIRST = Counters(epoch=0)


def ahead(counters: Counters) -> Counters:
    return counters.ahead(4, 4.0)


@dataclass
class Log:
    """One subject: compare-and-set by its last sequence. A leader that waits for its replicas refuses everything, while
    readers see the old end of the log."""

    entries: list[LogEntry] = field(default_factory=list)
    on_its_way: Write | None = None

    @property
    def last(self) -> LogEntry | None:
        return self.entries[-1] if self.entries else None

    def store(self, write: Write) -> int | None:
        """The sequence; None: refused."""
        last = self.last.sequence if self.last else 0
        if self.on_its_way is not None or write.expected_last != last:
            return None
        self.entries.append(
            LogEntry(
                last + 3, write.message_id, write.node, write.term, write.begin, write.reserved, write.events
            )  # other subjects take sequences too
        )
        return last + 3


@dataclass
class Owner:
    """A node's side: what it publishes, and the write whose answer it waits for."""

    ownership: Ownership
    shown: Counters = field(default_factory=Counters)
    pending: Write | None = None
    after: Counters | None = None
    releasing: bool = False


def is_pending(owner: Owner) -> bool:
    return owner.pending is not None


def can_write(owner: Owner) -> bool:
    return owner.pending is None and owner.ownership.state is OwnerState.OWNING


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.log = Log()
        self.owners: dict[str, Owner] = {}
        self.paused: set[str] = set()
        self.holder: str | None = None
        self.reported_at = 0.0
        self.visible: list[tuple[int, float]] = []
        """`seq` and start of the interims that a gateway shows."""
        self.acknowledged: list[str] = []

    # -- the network and JetStream

    @precondition(lambda self: set(NODES) - set(self.owners))
    @rule(data=st.data(), arrives=st.booleans())
    def deliver_assignment(self, data: st.DataObject, arrives: bool) -> None:
        """The holder was killed or paused, or its reports were lost on their way: another node gets the stream."""
        if self.holder is not None:
            self.now = max(self.now, self.reported_at + ACK_WAIT_SECONDS)
        node = data.draw(st.sampled_from(sorted(set(NODES) - set(self.owners))))
        self.holder, self.reported_at = node, self.now
        ownership = Ownership("door", node, lambda: self.now)
        owner = self.owners[node] = Owner(ownership)
        owner.pending = ownership.take_over(self.log.last, ahead, FIRST)
        if arrives:
            self._arrive(node, answered=True)

    @precondition(lambda self: self.log.on_its_way is None and self._nodes(is_pending))
    @rule(data=st.data())
    def leader_waits_for_replicas(self, data: st.DataObject) -> None:
        """The log will take the pending write, or a new leader will not know of it; its answer is lost."""
        write = self.owners[data.draw(st.sampled_from(self._nodes(is_pending)))].pending
        assert write is not None
        if write.expected_last == (self.log.last.sequence if self.log.last else 0):
            self.log.on_its_way = write

    @precondition(lambda self: self.log.on_its_way is not None)
    @rule(stored=st.booleans())
    def replicas_answer(self, stored: bool) -> None:
        write, self.log.on_its_way = self.log.on_its_way, None
        if stored and write is not None:
            self.log.store(write)

    @precondition(lambda self: self._nodes(is_pending))
    @rule(data=st.data(), answered=st.sampled_from([True, True, False]))
    def write_arrives(self, data: st.DataObject, answered: bool) -> None:
        """The log takes the pending write, or refuses it; the answer may be lost, and the write is sent again later."""
        self._arrive(data.draw(st.sampled_from(self._nodes(is_pending))), answered=answered)

    def _arrive(self, node: str, *, answered: bool) -> None:
        owner = self.owners[node]
        write, last = owner.pending, self.log.last
        assert write is not None
        sequence = self.log.store(write)
        if not answered or node in self.paused:
            return
        ownership = owner.ownership
        if sequence is not None:
            ownership.stored(write, sequence)
        elif is_undecided(write, last):
            return  # it is sent again
        elif not ownership.refused(write, last):
            if ownership.state is OwnerState.CLAIMING:
                owner.pending = ownership.take_over(last, ahead, FIRST)
            else:
                self._drop(node)
            return
        self._continue(node, owner, write)

    @rule(seconds=st.sampled_from([2.0, ACK_WAIT_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for node, owner in self.owners.items():
            if node not in self.paused and owner.ownership.report() and self.holder == node and seconds == 2.0:
                self.reported_at = self.now

    # -- the nodes

    @precondition(lambda self: self._nodes(can_write))
    @rule(data=st.data(), count=st.integers(1, 3))
    def write_finals(self, data: st.DataObject, count: int) -> None:
        owner = self.owners[data.draw(st.sampled_from(self._nodes(can_write)))]
        events, counters = [], owner.shown
        for _ in range(count):
            payload = caption(number=counters.caption, start=counters.time)
            events.append(encode(counters.seq, payload))
            counters = counters.after(payload)
        owner.pending = owner.ownership.write(events, owner.shown.seq, ahead(counters))
        owner.after = counters

    @precondition(lambda self: self._nodes(can_write))
    @rule(data=st.data())
    def show_interim(self, data: st.DataObject) -> None:
        owner = self.owners[data.draw(st.sampled_from(self._nodes(can_write)))]
        payload = caption(number=owner.shown.caption, start=owner.shown.time, is_final=False)
        after = owner.shown.after(payload)
        if not owner.ownership.may_show or not owner.ownership.reserved.covers(after):
            return
        seq = owner.shown.seq
        owner.shown = after._replace(caption=owner.shown.caption)
        # A gateway takes only what lies beyond all that it has seen of the log.
        if seq >= max(entry.begin + len(entry.events) for entry in self.log.entries):
            self.visible.append((seq, payload.start))

    @precondition(lambda self: self._nodes(can_write))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        owner = self.owners[data.draw(st.sampled_from(self._nodes(can_write)))]
        owner.pending, owner.releasing = owner.ownership.release(owner.shown), True

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.owners)))
        del self.owners[node]
        self.paused.discard(node)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def pause_or_continue(self, data: st.DataObject) -> None:
        self.paused ^= {data.draw(st.sampled_from(sorted(self.owners)))}

    # -- what must hold

    @invariant()
    def numbers_ids_and_times_only_rise(self) -> None:
        events = [text for entry in self.log.entries for text in entry.events]
        finals = [json.loads(text) for text in events]
        seqs = [final["seq"] for final in finals]
        numbers = [int(final["id"].rpartition("-")[2]) for final in finals]
        starts = [final["start"] for final in finals]
        assert seqs == sorted(set(seqs))
        assert numbers == sorted(set(numbers))
        assert starts == sorted(starts)
        shown = [seq for seq, _ in self.visible]
        assert len(set(shown)) == len(shown) and not set(shown) & set(seqs), "a number was used twice"
        in_order = sorted([(final["seq"], final["start"]) for final in finals] + self.visible)
        assert [start for _, start in in_order] == sorted(start for _, start in in_order), "time went back"

    @invariant()
    def acknowledged_finals_are_in_the_log_once(self) -> None:
        events = [text for entry in self.log.entries for text in entry.events]
        assert len(set(self.acknowledged)) == len(self.acknowledged)
        assert set(self.acknowledged) <= set(events)
        assert len(set(events)) == len(events)

    @invariant()
    def no_write_follows_one_of_a_later_owner(self) -> None:
        terms = [entry.term for entry in self.log.entries]
        assert terms == sorted(terms)
        assert len({(entry.term, entry.node) for entry in self.log.entries}) == len(set(terms))

    # -- parts

    def _nodes(self, condition: Callable[[Owner], bool]) -> list[str]:
        """The nodes that run and of whose owner `condition` is true; a paused one only waits for its pending write."""
        return [
            node
            for node, owner in sorted(self.owners.items())
            if condition(owner) and (node not in self.paused or owner.pending is not None)
        ]

    def _continue(self, node: str, owner: Owner, write: Write) -> None:
        owner.pending = None
        self.acknowledged += write.events
        if owner.releasing:
            owner.ownership.end()
            self._drop(node)
        elif owner.after is not None:
            owner.shown, owner.after = owner.after, None
        elif not write.events:  # the claim
            owner.shown = owner.ownership.begin

    def _drop(self, node: str) -> None:
        self.owners.pop(node)
        if self.holder == node:
            self.holder = None


TestOwnership = Machine.TestCase
TestOwnership.settings = settings(
    max_examples=examples(80), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_silent_owner_must_confirm_before_it_shows() -> None:
    now = [0.0]
    ownership = Ownership("door", "a", lambda: now[0])
    ownership.stored(ownership.take_over(None, ahead, Counters()), 1)
    assert ownership.may_show
    now[0] = 30.0  # SIGSTOP and SIGCONT
    ownership.report()
    assert not ownership.may_show and ownership.must_confirm
    ownership.stored(ownership.write([], 1, ahead(Counters())), 2)
    assert ownership.may_show


def test_refused_owner_writes_and_reports_nothing() -> None:
    ownership = Ownership("door", "a", lambda: 0.0)
    ownership.stored(ownership.take_over(None, ahead, Counters()), 1)
    write = ownership.write([], 1, ahead(Counters()))
    assert not ownership.refused(write, LogEntry(2, "other", "b", 2, 1, Counters()))
    assert ownership.is_lost and not ownership.report()
    with pytest.raises(NotOwnerError):
        ownership.write([], 1, Counters())


def test_refused_write_is_undecided_if_log_unchanged() -> None:
    ownership = Ownership("door", "a", lambda: 0.0)
    claim = ownership.take_over(None, ahead, Counters())
    assert is_undecided(claim, None)
    ownership.stored(claim, 5)
    write = ownership.write([], 1, Counters())
    assert is_undecided(write, LogEntry(5, claim.message_id, "a", 1, 1, claim.reserved))
    assert not is_undecided(write, LogEntry(6, "other", "b", 2, 1, Counters()))
    assert not is_undecided(write, None)


def test_write_whose_answer_was_lost_counts_as_stored() -> None:
    ownership = Ownership("door", "a", lambda: 0.0)
    claim = ownership.take_over(None, ahead, Counters())
    assert ownership.refused(claim, LogEntry(7, claim.message_id, "a", 1, 1, claim.reserved))
    assert ownership.state is OwnerState.OWNING
    assert ownership.write([], 1, Counters()).expected_last == 7
