"""What a gateway shows of logs and interims that come in any order."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from streamcap.captions.event import Payload, Status, StreamState, encode
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub
from streamcap.captions.subscription import SubscribeOptions
from streamcap.cluster.gateway.gateway import MAX_WAITING_INTERIMS, Gateway
from streamcap.cluster.jetstream.direct_client import read_header
from streamcap.cluster.log.entry import body_of, header_of
from streamcap.cluster.log.ownership import Write
from streamcap.cluster.log.reader import Message
from streamcap.errors import InputError
from streamcap.streams.counters import Counters
from tests.captions.fakes import caption


class Shown:
    """A gateway without NATS, and a viewer of it."""

    def __init__(self) -> None:
        self.hub = Hub(time.monotonic, time.time)
        self.hub.max_ahead = 100
        self.gateway = Gateway(None, self.hub, add=self._add, apply=lambda *_: None)  # type: ignore[arg-type]
        self._sequence = 0
        self._viewer = self.hub.subscribe(SubscribeOptions(), lambda: None)

    def _add(self, name: str, next_seq: int) -> bool:
        if name not in self.hub.feeds:
            feed = EventLog(name)
            feed.refill([], next_seq)
            self.hub.add(feed)
        return True

    def log(self, begin: int, *payloads: Payload, term: int = 1) -> None:
        self._sequence += 1
        events = tuple(encode(seq, payload).text for seq, payload in enumerate(payloads, begin))
        write = Write(f"id{self._sequence}", 0, "node", term, begin, Counters(begin + 1000), events)
        message = Message("sc.cap.door", self._sequence, time.time(), read_header(header_of(write)), body_of(write))
        self.gateway._take(message)
        self.gateway._take(message)  # a reader that starts again may deliver twice

    def interim(self, after: int, seq: int, number: int = 1) -> None:
        text = encode(seq, caption(number=number, is_final=False)).text
        self.gateway._take_interim("sc.live.door", "", b"", f"{after}\n{text}".encode())

    def seen(self) -> list[Any]:
        messages = [json.loads(text) for text in self._viewer.take()]
        return [(m["from"], m["to"]) if m["type"] == "gap" else m["seq"] for m in messages if m["type"] != "hello"]


def test_numbers_are_those_of_the_log() -> None:
    shown = Shown()
    shown.log(7, Status("door", StreamState.LIVE), caption(number=1))
    shown.interim(after=8, seq=9, number=2)
    shown.log(10, caption(number=2))
    assert shown.seen() == [7, 8, 9, 10]


def test_interim_waits_for_the_event_before_it() -> None:
    shown = Shown()
    shown.log(1, caption(number=1))
    shown.interim(after=2, seq=3, number=3)
    assert shown.seen() == [1]
    shown.log(2, caption(number=2))
    assert shown.seen() == [2, 3]


def test_lost_interim_becomes_a_gap() -> None:
    shown = Shown()
    shown.log(1, caption(number=1))
    shown.log(3, caption(number=2))
    assert shown.seen() == [1, (2, 2), 3]


def test_interim_of_a_former_owner_is_dropped() -> None:
    shown = Shown()
    shown.log(1, caption(number=1))
    shown.log(1001, term=2)
    shown.interim(after=1, seq=2, number=2)
    shown.log(1001, caption(number=1001), term=2)
    assert shown.seen() == [1, (2, 1000), 1001]
    assert shown.gateway.interims_dropped == 1


def test_early_interims_are_bounded() -> None:
    shown = Shown()
    shown.log(1, caption(number=1))
    for seq in range(3, 3 + 2 * MAX_WAITING_INTERIMS):
        shown.interim(after=2, seq=seq)
    assert shown.gateway.interims_dropped == MAX_WAITING_INTERIMS


def test_nothing_is_kept_of_removed_and_unknown_streams() -> None:
    shown = Shown()
    shown.interim(after=2, seq=3)
    assert shown.gateway.interims_dropped == 1, "the hub does not know the stream"
    shown.log(1, caption(number=1))
    shown.interim(after=2, seq=3)
    gateway = shown.gateway
    shown.hub.remove("door")
    gateway.forget("door")
    assert not gateway._seen and not gateway._logged and not gateway._early
    shown.log(1, caption(number=2))  # another stream of that name
    assert shown.seen() == [1, 1]


def test_client_of_a_faster_gateway_gets_nothing_twice() -> None:
    shown = Shown()
    shown.log(1, caption(number=1))
    viewer = shown.hub.subscribe(SubscribeOptions(), lambda: None, since=2)
    shown.log(2, caption(number=2))
    shown.log(4, caption(number=3))
    texts = [json.loads(text) for text in viewer.take()]
    assert [(m["type"], m.get("seq") or m.get("from")) for m in texts[1:]] == [("gap", 3), ("caption", 4)]
    with pytest.raises(InputError, match="not a past event"):
        shown.hub.subscribe(SubscribeOptions(), lambda: None, since=10_000)
