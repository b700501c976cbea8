"""The queue of a remote model, and the circuit that leaves a failing server alone."""

from __future__ import annotations

import random

import numpy as np

from streamcap.engine.outcome import Encoded, Times
from streamcap.engine.remote.circuit import Circuit
from streamcap.engine.remote.request_queue import RequestQueue
from tests.engine.fakes import sample


def encoded(stream: str, start: float = 0.0) -> Encoded:
    return Encoded(sample(stream, (0, 0, 0), start), np.ones(3, np.float32), Times(0, 0, 0))


def test_newest_sample_waits_and_others_are_counted() -> None:
    queue = RequestQueue(4)
    for start in (0.0, 1.0, 3.0, 2.0):
        queue.put(encoded("door", start))
    taken = queue.take()
    assert taken is not None and taken.sample.start == 3.0
    assert queue.superseded == {"door": 3} and len(queue) == 0


def test_one_request_a_stream_and_four_in_all() -> None:
    queue = RequestQueue(4)
    for name in "abcdef":
        queue.put(encoded(name))
    taken = [queue.take() for _ in range(6)]
    assert [one.sample.stream for one in taken if one is not None] == list("abcd")
    queue.put(encoded("a", 1.0))
    queue.done("b")
    following = queue.take()
    assert following is not None and following.sample.stream == "e"


def test_busy_stream_does_not_starve_others() -> None:
    queue = RequestQueue(1)
    served = []
    for number in range(30):
        for name in ("busy", *(("calm",) if number % 2 else ())):
            queue.put(encoded(name, number))
        taken = queue.take()
        assert taken is not None
        served.append(taken.sample.stream)
        queue.done(served[-1])
    assert served.count("calm") == 14 or served.count("calm") == 15


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_to_two_seconds_with_jitter() -> None:
    """Two seconds at most, so that a server that has come back captions again within five."""
    clock = Clock()
    circuit = Circuit(clock, random.Random(1))
    pauses = []
    for _ in range(8):
        assert circuit.begin()
        circuit.fail("refused", None)
        pauses.append(circuit.pause)
        assert not circuit.begin()
        clock.now += circuit.pause
    assert 0.25 <= pauses[0] <= 0.5 and pauses[-1] >= 1.0 and max(pauses) <= 2.0 and len(set(pauses)) == 8
    assert circuit.begin() and not circuit.begin(), "one request at a time tries"
    circuit.succeed()
    assert circuit.is_closed and circuit.begin() and circuit.begin()


def test_pause_that_the_server_asks_for_is_kept() -> None:
    clock = Clock()
    circuit = Circuit(clock, random.Random(1))
    circuit.fail("429", 30.0)
    circuit.fail("refused", None)  # another request, sent before
    assert circuit.pause >= 30.0


def test_cancelled_trial_lets_another_try() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    circuit.fail("refused", 0.0)
    clock.now += 5
    assert circuit.begin()
    circuit.abandon()
    assert circuit.begin()
