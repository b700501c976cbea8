from __future__ import annotations

from collections import Counter

import numpy as np

from streamcap.cluster.engines.dispatcher import (
    AFFINITY_SECONDS,
    ANSWER_SECONDS,
    ASK_SECONDS,
    DEAD_SECONDS,
    SILENT_SECONDS,
    Batch,
    Dispatcher,
)
from streamcap.cluster.engines.messages import NO_PIXELS, Answer
from streamcap.engine.outcome import Captioned, Interim
from streamcap.media.frame import Sample
from tests.cluster.engines.samples import Clock, report, sample

LARGE = 10**6
MEMORY = {
    "id": "me:1",
    "text": "a dog",
    "model": "mini",
    "epoch": 1,
    "start": 1.0,
    "last": 1.0,
    "unconfirmed": None,
}


def make(*engines: str, window: int = 4) -> tuple[Dispatcher, Clock]:
    clock = Clock()
    dispatcher = Dispatcher("me", clock)
    for engine in engines:
        dispatcher.on_report(report(engine, window))
    return dispatcher, clock


def take(dispatcher: Dispatcher) -> Batch:
    batch = dispatcher.take(LARGE)
    assert batch is not None
    return batch


def caption(dispatcher: Dispatcher, batch: Batch, text: str = "a dog") -> list[Sample]:
    """Answer all of `batch`; the samples whose captions were published."""
    answers = [Answer(request.id, "captioned", text, memory=MEMORY) for request in batch.requests]
    outcomes = [dispatcher.on_answer(batch.engine, answer) for answer in answers]
    return [outcome.sample for outcome in outcomes if isinstance(outcome, Captioned)]


def test_without_an_engine_the_newest_sample_waits() -> None:
    dispatcher, _ = make()
    assert not dispatcher.put(sample(at=1.0))
    assert not dispatcher.put(sample(at=2.0))
    assert dispatcher.take(LARGE) is None
    assert (dispatcher.waiting, dispatcher.superseded, dispatcher.missed) == (1, {"door": 1}, 1)
    dispatcher.on_report(report("a"))
    assert [request.sample.start for request in take(dispatcher).requests] == [2.0]
    assert dispatcher.put(sample(at=3.0))


def test_a_sample_without_pixels_is_missed() -> None:
    dispatcher, _ = make("a")
    unknown = sample()
    object.__setattr__(unknown, "pixels", NO_PIXELS)
    assert not dispatcher.put(unknown)
    assert dispatcher.take(LARGE) is None
    assert dispatcher.missed == 1


def test_one_sample_of_a_stream_is_at_an_engine() -> None:
    dispatcher, _ = make("a")
    dispatcher.put(sample(at=1.0))
    first = take(dispatcher)
    dispatcher.put(sample(at=2.0))
    dispatcher.put(sample(at=3.0))
    assert dispatcher.take(LARGE) is None, "the gate must know the first caption before the next one"
    assert caption(dispatcher, first) == [first.requests[0].sample]
    second = take(dispatcher)
    assert [request.sample.start for request in second.requests] == [3.0]
    assert second.requests[0].memory is not None and second.requests[0].memory.text == "a dog"
    assert dispatcher.superseded == {"door": 1} and dispatcher.missed == 0


def test_no_more_than_the_window_is_sent() -> None:
    dispatcher, _ = make("a", window=3)
    for number in range(5):
        dispatcher.put(sample(f"cam{number}"))
    first = take(dispatcher)
    assert [request.sample.stream for request in first.requests] == ["cam0", "cam1", "cam2"]
    assert dispatcher.take(LARGE) is None
    caption(dispatcher, first)
    assert [request.sample.stream for request in take(dispatcher).requests] == ["cam3", "cam4"]


def test_a_message_is_no_larger_than_allowed() -> None:
    dispatcher, _ = make("a", window=9)
    for number in range(5):
        dispatcher.put(sample(f"cam{number}"))
    size = 3 * 32 * 32 + 2048 + 200
    sizes = []
    while (batch := dispatcher.take(2 * size)) is not None:
        sizes.append(len(batch.requests))
    assert sizes == [2, 2, 1]


def test_new_streams_spread_over_engines_by_window() -> None:
    dispatcher, _ = make()
    dispatcher.on_report(report("slow", 10))
    dispatcher.on_report(report("fast", 30))
    for number in range(20):
        dispatcher.put(sample(f"cam{number}"))
    counts: Counter[str] = Counter()
    while (batch := dispatcher.take(LARGE)) is not None:
        counts[batch.engine] += len(batch.requests)
    assert counts == {"slow": 5, "fast": 15}


def test_a_stream_stays_with_its_engine() -> None:
    dispatcher, _ = make("a", window=1)
    dispatcher.put(sample("door"))
    caption(dispatcher, take(dispatcher))
    dispatcher.on_report(report("b", 9))
    dispatcher.put(sample("door", at=2.0))
    assert take(dispatcher).engine == "a"
    dispatcher.put(sample("gate"))
    assert take(dispatcher).engine == "b"


def test_a_stream_moves_when_its_engine_stays_full() -> None:
    dispatcher, clock = make("a", window=1)
    for name in ("door", "gate"):
        dispatcher.put(sample(name))
        caption(dispatcher, take(dispatcher))
    dispatcher.on_report(report("b", 1))
    for name in ("door", "gate"):
        dispatcher.put(sample(name, at=2.0))
    assert take(dispatcher).engine == "a"
    assert dispatcher.take(LARGE) is None, "the engine that knows it may have room in a moment"
    clock.now += AFFINITY_SECONDS
    batch = take(dispatcher)
    assert (batch.engine, batch.requests[0].sample.stream) == ("b", "gate")


def test_samples_of_a_dead_engine_go_to_another() -> None:
    dispatcher, _ = make("a")
    for name in ("door", "gate"):
        dispatcher.put(sample(name, at=1.0))
    first = take(dispatcher)
    dispatcher.put(sample("gate", at=2.0))
    dispatcher.on_report(report("b"))
    assert dispatcher.remove_engine("a") and not dispatcher.remove_engine("a")
    batch = take(dispatcher)
    assert batch.engine == "b"
    assert {request.sample.stream: request.sample.start for request in batch.requests} == {"door": 1.0, "gate": 2.0}
    assert (dispatcher.resent, dispatcher.superseded) == (1, {"gate": 1})
    assert caption(dispatcher, first) == [], "a late answer is no second caption"
    assert dispatcher.late == 2
    assert len(caption(dispatcher, batch)) == 2


def test_a_lost_interim_gets_its_own_final() -> None:
    dispatcher, _ = make("a", "b")
    dispatcher.put(sample(at=1.0))
    first = take(dispatcher)
    caption(dispatcher, first)
    dispatcher.put(sample(at=2.0))
    second = take(dispatcher)
    assert second.requests[0].memory is not None
    shown = dispatcher.on_answer(
        second.engine, Answer(second.requests[0].id, "interim", "a cat", encode=0.1, decode=0.2)
    )
    assert isinstance(shown, Interim) and shown.text == "a cat"
    assert round(shown.times.decoded - shown.times.taken, 6) == 0.3
    dispatcher.remove_engine(second.engine)
    # Without memory the engine makes a final, also if the text is that of the last one.
    assert take(dispatcher).requests[0].memory is None


def test_a_silent_engine_is_asked_then_left_then_dead() -> None:
    dispatcher, clock = make("a")
    dispatcher.put(sample())
    take(dispatcher)
    assert dispatcher.tick() == []
    clock.now += ASK_SECONDS
    assert dispatcher.tick() == ["a"]
    clock.now += SILENT_SECONDS
    assert dispatcher.tick() == ["a"]
    assert dispatcher.in_flight == 1, "there is no other engine"
    dispatcher.on_report(report("b"))
    dispatcher.tick()
    assert take(dispatcher).engine == "b"
    clock.now += DEAD_SECONDS - SILENT_SECONDS
    dispatcher.on_report(report("b"))
    dispatcher.tick()
    assert dispatcher.engines == ("b",)


def test_an_engine_that_owes_an_answer_is_left() -> None:
    dispatcher, clock = make("a")
    dispatcher.put(sample())
    take(dispatcher)
    for _ in range(int(ANSWER_SECONDS)):
        clock.now += 1.0
        dispatcher.on_report(report("a"))
    dispatcher.tick()
    assert (dispatcher.in_flight, dispatcher.given_up) == (0, 1)
    assert dispatcher.take(LARGE) is None, "until its next report"
    dispatcher.on_report(report("a"))
    assert take(dispatcher).requests[0].sample.start == 1.0


def test_a_refused_sample_waits_for_another_engine() -> None:
    dispatcher, _ = make("a")
    dispatcher.put(sample())
    batch = take(dispatcher)
    assert dispatcher.on_answer("a", Answer(batch.requests[0].id, "busy")) is None
    assert dispatcher.take(LARGE) is None
    dispatcher.on_report(report("b"))
    assert take(dispatcher).engine == "b"


def test_a_draining_engine_gets_nothing_but_answers() -> None:
    dispatcher, _ = make("a")
    dispatcher.put(sample("door"))
    batch = take(dispatcher)
    dispatcher.on_report(report("a", draining=True))
    dispatcher.put(sample("gate"))
    assert dispatcher.take(LARGE) is None
    assert len(caption(dispatcher, batch)) == 1


def test_a_message_that_was_not_sent_is_sent_later() -> None:
    dispatcher, _ = make("a")
    dispatcher.put(sample())
    batch = take(dispatcher)
    dispatcher.unsent(batch)
    assert [request.sample.start for request in take(dispatcher).requests] == [1.0]


def test_an_engine_with_another_model_of_the_name() -> None:
    clock = Clock()
    dispatcher = Dispatcher("me", clock, lambda name, fingerprint: fingerprint == "m2")
    dispatcher.on_report(report("old"))
    assert not dispatcher.put(sample())
    assert dispatcher.take(LARGE) is None


def test_a_removed_stream_leaves_nothing() -> None:
    dispatcher, _ = make("a")
    for name in ("door", "gate"):
        dispatcher.put(sample(name))
    batch = take(dispatcher)
    dispatcher.put(sample("door", at=2.0))
    dispatcher.put(sample("door", at=3.0))
    dispatcher.forget("door")
    assert (dispatcher.in_flight, dispatcher.waiting, dispatcher.superseded) == (1, 0, {})
    assert [one.stream for one in caption(dispatcher, batch)] == ["gate"]


def simulate(
    streams: int, rate: float, *, seconds: float, kill_at: float = 1e9
) -> tuple[Counter[str], list[float], int]:
    """Streams with a sample a second, and two engines of `rate` samples a second each; the first may die.

    Returns the finals of each stream, the ages of the frames in seconds, and the most samples anywhere.
    """
    clock = Clock()
    dispatcher = Dispatcher("me", clock)
    windows = {"a": max(2, round(rate / 2)), "b": max(2, round(rate / 2))}
    busy = dict.fromkeys(windows, 0.0)
    queues: dict[str, list[tuple[float, Batch, int]]] = {"a": [], "b": []}
    finals, ages, largest = Counter[str](), list[float](), 0
    rng = np.random.default_rng(1)
    due = {f"cam{number}": clock.now + float(rng.random()) for number in range(streams)}
    dies, end = clock.now + kill_at, clock.now + seconds
    while clock.now < end:
        clock.now += 0.01
        alive = [engine for engine in windows if engine != "a" or clock.now < dies]
        for engine in alive:
            dispatcher.on_report(report(engine, windows[engine]))
            while queues[engine] and queues[engine][0][0] <= clock.now:
                _, batch, index = queues[engine].pop(0)
                request = batch.requests[index]
                dispatcher.on_answer(engine, Answer(request.id, "captioned", "a dog", memory=MEMORY))
                finals[request.sample.stream] += 1
                ages.append(clock.now - request.sample.arrived)
        for name, at in due.items():
            if at <= clock.now:
                due[name] = at + 1.0
                dispatcher.put(sample(name, at=clock.now))
        while (taken := dispatcher.take(LARGE)) is not None:
            for index in range(len(taken.requests)):
                busy[taken.engine] = max(busy[taken.engine], clock.now) + 1 / rate
                queues[taken.engine].append((busy[taken.engine], taken, index))
        for engine in dispatcher.tick():
            if engine not in alive:
                dispatcher.remove_engine(engine)  # the server answers that nobody listens
        largest = max(largest, dispatcher.waiting + dispatcher.in_flight)
    return finals, ages, largest


def test_half_of_the_needed_engines_is_fair_and_fresh() -> None:
    finals, ages, largest = simulate(100, 25.0, seconds=20)
    counts = np.array([finals[f"cam{number}"] for number in range(100)], float)
    jain = counts.sum() ** 2 / (len(counts) * (counts**2).sum())
    assert len(ages) > 0.85 * 50 * 20
    assert jain >= 0.95
    assert max(ages) <= 2.0
    assert largest <= 200


def test_captions_are_fresh_while_an_engine_dies() -> None:
    _, ages, _ = simulate(40, 100.0, seconds=8, kill_at=4.0)
    assert len(ages) >= 40 * 7
    assert np.percentile(ages, 99) <= 1.0 and max(ages) <= 1.0
