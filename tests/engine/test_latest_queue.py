from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamcap.engine.latest_queue import LatestSampleQueue
from tests.engine.fakes import sample

RED = (255, 0, 0)


def test_newer_sample_replaces_waiting_sample() -> None:
    mailbox = LatestSampleQueue()
    for second in range(5):
        mailbox.put(sample("door", RED, float(second)))
    assert [s.start for s in mailbox.take(8)] == [4.0]
    assert mailbox.superseded == {"door": 4}


def test_longest_waiting_stream_is_first() -> None:
    mailbox = LatestSampleQueue()
    mailbox.put(sample("slow", RED))
    mailbox.put(sample("busy", RED))
    mailbox.put(sample("slow", RED, 1.0))
    assert [s.stream for s in mailbox.take(1)] == ["slow"]


def test_batch_has_one_shape() -> None:
    mailbox = LatestSampleQueue()
    mailbox.put(sample("a", RED, size=4))
    mailbox.put(sample("b", RED, size=8))
    mailbox.put(sample("c", RED, size=4))
    assert [s.stream for s in mailbox.take(8)] == ["a", "c"]
    assert [s.stream for s in mailbox.take(8)] == ["b"]


def test_batch_is_of_one_model() -> None:
    mailbox = LatestSampleQueue()
    mailbox.put(sample("a", RED, model="mini"))
    mailbox.put(sample("b", RED, model="clipcap-coco"))
    mailbox.put(sample("c", RED, model="talker", encoder="mini"))
    assert mailbox.encoders() == ["mini", "clipcap-coco"]
    assert [s.stream for s in mailbox.take(8, "mini")] == ["a", "c"]
    assert mailbox.encoders() == ["clipcap-coco"]


def test_late_sample_does_not_replace_newer_sample() -> None:
    mailbox = LatestSampleQueue()
    mailbox.put(sample("door", RED, 2.0, model="talker", encoder="mini"))
    mailbox.put(sample("door", RED, 1.0, model="mini"))
    assert [s.start for s in mailbox.take(8, "mini")] == [2.0]
    assert mailbox.superseded == {"door": 1}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=80))
def test_one_sample_per_stream_and_drops_are_counted(steps: list[tuple[str, bool]]) -> None:
    mailbox, put, taken = LatestSampleQueue(), 0, 0
    for stream, take in steps:
        mailbox.put(sample(stream, RED))
        put += 1
        assert len(mailbox) <= 4
        if take:
            batch = mailbox.take(3)
            assert len({s.stream for s in batch}) == len(batch)
            taken += len(batch)
    assert put == taken + len(mailbox) + sum(mailbox.superseded.values())
