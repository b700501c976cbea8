from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.captions.event import Extend, Status, StreamState
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.replay import REPLAY_INTERIMS
from streamcap.captions.subscription import DROPS_TO_CLOSE, SubscribeOptions, Subscription
from streamcap.errors import InputError
from tests.captions.fakes import caption
from tests.examples import examples


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock) -> Hub:
    hub = Hub(clock, clock)
    hub.add(EventLog("door"))
    return hub


def texts(subscription: Subscription) -> list[dict[str, Any]]:
    return [json.loads(text) for text in subscription.take()]


def listen(
    hub: Hub, options: SubscribeOptions | None = None, since: int | dict[str, int] | None = None
) -> Subscription:
    return hub.subscribe(options or SubscribeOptions(), lambda: None, since)


def test_every_event_takes_next_seq(hub: Hub) -> None:
    subscription = listen(hub)
    hub.publish(Status("door", StreamState.LIVE))
    hub.publish(caption(is_final=False))
    hub.publish(caption())
    hub.publish(Extend("door", "door-37", 15.0))
    hello, *events = texts(subscription)
    assert hello["type"] == "hello"
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert [event["type"] for event in events] == ["status", "caption", "caption", "extend"]


def test_new_subscriber_gets_status_and_current_caption(hub: Hub) -> None:
    hub.publish(Status("door", StreamState.LIVE))
    hub.publish(caption("a cat sleeps", number=1))
    hub.publish(Extend("door", "door-1", 14.0))
    hub.publish(caption("a man opens a door", number=2))
    newcomer = listen(hub)
    hub.publish(caption("a dog runs", number=3))
    _, status, shown, live = texts(newcomer)
    assert (status["type"], status["state"]) == ("status", "live")
    assert (shown["text"], live["text"]) == ("a man opens a door", "a dog runs")
    # Numbers grow by one from the first message; the last is where to resume.
    assert [m["seq"] for m in (status, shown, live)] == [3, 4, 5]


def test_new_subscriber_gets_current_extend_and_interim(hub: Hub) -> None:
    hub.publish(Status("door", StreamState.LIVE))
    hub.publish(caption())
    for end in (14.0, 15.0, 16.0):
        hub.publish(Extend("door", "door-37", end))
    hub.publish(caption("a dog", number=38, is_final=False))
    _, status, shown, extend, interim = texts(listen(hub))
    assert (shown["id"], shown["is_final"], extend["id"], extend["end"]) == ("door-37", True, "door-37", 16.0)
    assert [m["seq"] for m in (status, shown, extend, interim)] == [1, 2, 5, 6]
    _, *without = texts(listen(hub, SubscribeOptions(interim=False)))
    assert [m["seq"] for m in without] == [1, 2, 5]


AWAY = [s for s in StreamState if s not in (StreamState.LIVE, StreamState.STALLED)]


@pytest.mark.parametrize("state", AWAY)
def test_inactive_stream_replays_no_caption(hub: Hub, state: StreamState) -> None:
    hub.publish(Status("door", StreamState.LIVE))
    hub.publish(caption())
    hub.publish(Status("door", state))
    _, *received = texts(listen(hub))
    assert [(m["type"], m["seq"]) for m in received] == [("status", 3)]
    # After the reconnection there is no current caption.
    hub.publish(Status("door", StreamState.LIVE))
    _, *received = texts(listen(hub))
    assert [(m["type"], m["seq"]) for m in received] == [("status", 4)]


def test_stalled_stream_replays_extendable_caption(hub: Hub) -> None:
    hub.publish(Status("door", StreamState.LIVE))
    hub.publish(caption())
    hub.publish(Status("door", StreamState.STALLED))
    _, *received = texts(listen(hub))
    assert [(m["type"], m["seq"], m.get("state")) for m in received] == [
        ("status", 1, "stalled"),
        ("caption", 2, None),
        ("status", 3, "stalled"),
    ]


def test_since_replays_missed_events(hub: Hub) -> None:
    for number in range(1, 11):
        hub.publish(caption(number=number, is_final=False))
        hub.publish(caption(number=number))
    _, *missed = texts(listen(hub, since=12))
    assert [event["seq"] for event in missed] == list(range(13, 21))
    _, *missed = texts(listen(hub, SubscribeOptions(interim=False), since=12))
    assert [event["id"] for event in missed] == ["door-7", "door-8", "door-9", "door-10"]
    assert all(event["is_final"] for event in missed)


def test_expired_interims_become_gaps(hub: Hub) -> None:
    for number in range(1, REPLAY_INTERIMS + 3):
        hub.publish(caption(number=number, is_final=False))
        hub.publish(caption(number=number))
    _, *missed = texts(listen(hub, since=0))
    assert [(m["from"], m["to"]) for m in missed if m["type"] == "gap"] == [(1, 1), (3, 3)]
    assert [m["seq"] for m in missed if m["type"] != "gap"] == [2, *range(4, 2 * REPLAY_INTERIMS + 5)]
    _, *missed = texts(listen(hub, SubscribeOptions(interim=False), since=0))
    assert [m["seq"] for m in missed] == list(range(2, 2 * REPLAY_INTERIMS + 5, 2))


def test_expired_events_become_a_gap(clock: Clock) -> None:
    hub = Hub(clock, clock)
    hub.add(EventLog("door", keep=3))
    for number in range(1, 11):
        hub.publish(caption(number=number))
    _, gap, *kept = texts(listen(hub, since=2))
    assert gap == {"type": "gap", "stream": "door", "from": 3, "to": 7}
    assert [event["seq"] for event in kept] == [8, 9, 10]
    _, *kept = texts(listen(hub, since=7))
    assert [event["seq"] for event in kept] == [8, 9, 10]


@pytest.mark.parametrize("since", [-1, 6, 10**12])
def test_since_in_the_future_is_refused(hub: Hub, since: int) -> None:
    for number in range(1, 6):
        hub.publish(caption(number=number))
    with pytest.raises(InputError, match="newest is 5"):
        listen(hub, since=since)


def test_unknown_stream_is_refused(hub: Hub) -> None:
    with pytest.raises(InputError, match="garden"):
        listen(hub, SubscribeOptions(streams=frozenset({"garden", "door"})))


def test_interim_option_and_minimum_interval(hub: Hub, clock: Clock) -> None:
    none = listen(hub, SubscribeOptions(interim=False))
    few = listen(hub, SubscribeOptions(min_interval=1.0))
    for _ in range(20):
        hub.publish(caption(is_final=False))
        clock.now += 0.1
    hub.publish(caption())
    assert [m["type"] for m in texts(none)] == ["hello", "caption"]
    assert [m["is_final"] for m in texts(few)[1:]] == [False, False, True]


def test_slow_subscriber_loses_interims_first(hub: Hub) -> None:
    slow = listen(hub, SubscribeOptions(limit=4))
    good = listen(hub)
    for number in range(1, 7):
        hub.publish(caption(number=number, is_final=False))
        hub.publish(caption(number=number))
    _, *left = texts(slow)
    # Missing numbers are gaps: 1 to 5, then every interim.
    assert left[0] == {"type": "gap", "stream": "door", "from": 1, "to": 5}
    assert [(m["from"], m["to"]) for m in left[1:] if m["type"] == "gap"] == [(7, 7), (9, 9), (11, 11)]
    assert [m["id"] for m in left if m["type"] == "caption"] == ["door-3", "door-4", "door-5", "door-6"]
    assert slow.statistics.interim_dropped == 6
    assert slow.statistics.finals_dropped == 2
    assert len(texts(good)) == 13


def test_stuck_subscriber_is_closed(hub: Hub) -> None:
    dead = listen(hub, SubscribeOptions(limit=4))
    good = listen(hub)
    received = 0
    for number in range(DROPS_TO_CLOSE + 10):
        hub.publish(caption(number=number))
        received += sum(m["type"] == "caption" for m in texts(good))
    assert dead.closed is not None and "too slow" in dead.closed
    assert hub.subscribers == 1
    assert hub.statistics.closed_slow == 1
    assert received == DROPS_TO_CLOSE + 10


def test_stale_caption_is_stored_but_not_delivered(hub: Hub) -> None:
    live = listen(hub)
    hub.publish(caption(), live=False)
    assert texts(live)[1:] == [{"type": "gap", "stream": "door", "from": 1, "to": 1}]
    assert [m["type"] for m in texts(listen(hub, since=0))] == ["hello", "caption"]
    assert hub.statistics.stale == 1


def test_removed_stream_closes_its_subscribers(hub: Hub) -> None:
    alone, all_streams = listen(hub, SubscribeOptions(streams=frozenset({"door"}))), listen(hub)
    hub.remove("door")
    assert alone.closed is not None and all_streams.closed is None
    hub.add(EventLog("yard"))
    hub.publish(caption(stream="yard"))
    assert (hub.subscribers, hub.statistics.closed_slow) == (1, 0)


def test_last_removed_stream_closes_subscriber(hub: Hub) -> None:
    hub.add(EventLog("yard"))
    hub.add(EventLog("gate"))
    both = listen(hub, SubscribeOptions(streams=frozenset({"door", "yard"})))
    hub.remove("door")
    hub.remove("gate")
    assert both.closed is None
    hub.remove("yard")
    assert both.closed == "stream yard was removed"


def test_restored_event_log_continues_seq(clock: Clock) -> None:
    first = Hub(clock, clock)
    first.add(EventLog("door"))
    events = [first.publish(caption(number=n)) for n in range(1, 6)]
    again = EventLog("door")
    again.refill(events[2:], next_seq=9)
    hub = Hub(clock, clock)
    hub.add(again)
    hub.publish(caption(number=6))
    _, gap, *kept = texts(listen(hub, since=1))
    assert (gap["from"], gap["to"]) == (2, 2)
    # Events of the earlier run after its last final are a gap.
    assert [event.get("seq", "gap") for event in kept] == [3, 4, 5, "gap", 9]
    assert (kept[3]["from"], kept[3]["to"]) == (6, 8)
    _, *kept = texts(listen(hub, since=7))
    assert [(m["type"], m.get("from"), m.get("to")) for m in kept] == [("gap", 8, 8), ("caption", None, None)]


def test_partial_take_keeps_order_and_capacity(hub: Hub) -> None:
    for number in range(1, 4):
        hub.publish(caption(number=number))
    reader = listen(hub, SubscribeOptions(limit=2), since=0)
    hub.publish(caption(number=4))
    hub.publish(caption(number=5))
    taken = [json.loads(text) for text in reader.take(5)]
    hub.publish(caption(number=6))
    assert len(reader) == 2
    taken += texts(reader)
    assert [message.get("seq") for message in taken] == [None, 1, 2, 3, 4, 5, 6]
    assert reader.statistics.finals_dropped == 0


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from(["final", "interim", "extend", "drop", "return"]), max_size=120))
def test_disconnect_loses_and_repeats_no_final(actions: list[str]) -> None:
    hub = Hub(Clock(), Clock())
    hub.add(EventLog("door"))
    published: list[int] = []
    received: list[int] = []
    seen = 0
    subscription: Subscription | None = listen(hub, since=0)
    for action in [*actions, "return"]:
        match action:
            case "final":
                published.append(hub.publish(caption(number=len(published))).seq)
            case "interim":
                hub.publish(caption(is_final=False))
            case "extend":
                hub.publish(Extend("door", "door-1", 3.0))
            case "drop" if subscription is not None:
                hub.unsubscribe(subscription)
                subscription = None
            case "return" if subscription is None:
                subscription = listen(hub, since=seen)
        if subscription is not None:
            for message in texts(subscription):
                seen = max(seen, message.get("seq", 0))
                if message["type"] == "caption" and message["is_final"]:
                    received.append(message["seq"])
    assert received == published


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.sampled_from(["final", "interim", "extend", "stale", "read", "read a part", "return"]), max_size=150),
    st.integers(1, 5),
    st.integers(1, 8),
)
def test_every_seq_is_delivered_once_or_in_a_gap(actions: list[str], limit: int, keep: int) -> None:
    hub = Hub(Clock(), Clock())
    hub.add(EventLog("door", keep=keep))
    options = SubscribeOptions(limit=limit)
    subscription = hub.subscribe(options, lambda: None, 0)
    seen = 0
    for action in [*actions, "read"]:
        match action:
            case "final" | "stale":
                hub.publish(caption(), live=action == "final")
            case "interim":
                hub.publish(caption(is_final=False))
            case "extend":
                hub.publish(Extend("door", "door-1", 3.0))
            case "return":
                hub.unsubscribe(subscription)
                subscription = hub.subscribe(options, lambda: None, seen)
            case "read" | "read a part":
                for text in subscription.take(2 if action == "read a part" else None):
                    message = json.loads(text)
                    if message["type"] == "hello":
                        continue
                    first, last = message.get("seq", message.get("from")), message.get("seq", message.get("to"))
                    assert first == seen + 1 and last >= first
                    seen = last
    assert seen == hub.feeds["door"].last_seq


def test_event_costs_viewers_of_other_streams_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(EventLog("yard"))
    door, yard, both, every = (
        listen(hub, SubscribeOptions(streams))
        for streams in (frozenset({"door"}), frozenset({"yard"}), frozenset({"door", "yard"}), None)
    )
    asked: list[Subscription] = []
    offer = Subscription.offer
    monkeypatch.setattr(Subscription, "offer", lambda self, *event: (asked.append(self), offer(self, *event)))
    hub.publish(Status("yard", StreamState.LIVE))
    assert set(map(id, asked)) == {id(yard), id(both), id(every)}
    hub.unsubscribe(yard)
    hub.unsubscribe(both)
    hub.unsubscribe(both)
    asked.clear()
    hub.publish(Status("yard", StreamState.STALLED))
    hub.publish(Status("door", StreamState.LIVE))
    assert asked == [every, every, door]
    assert [len(texts(each)) for each in (door, yard, both, every)] == [2, 2, 2, 4]
