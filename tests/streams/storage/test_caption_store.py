"""A store that keeps every event but interims, as a log on other machines does, in place of files."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from streamcap.captions.cue import Cue
from streamcap.captions.event import Event, StreamState
from streamcap.captions.hub import Hub
from streamcap.captions.subscription import SubscribeOptions
from streamcap.engine.outcome import Captioned, Interim, Times, Unchanged
from streamcap.engine.served_model import ServedModel, ServedModels
from streamcap.media.frame import Sample
from streamcap.streams.counters import Counters
from streamcap.streams.options import StreamOptions
from streamcap.streams.publishing.caption_publisher import CaptionPublisher
from streamcap.streams.settings import StreamSettings
from streamcap.streams.storage.caption_files import SavedHistory
from streamcap.streams.storage.event_outbox import Outgoing
from streamcap.streams.stream_deps import StreamDeps
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import MadeSource, frame


class Log:
    """A `CaptionStore` in memory. `open_gate` lets writes through."""

    path = "the log"
    medium = "the log"
    hang_seconds = float("inf")

    def __init__(self, extend_delay: float = 0.0) -> None:
        self.extend_delay = extend_delay
        self.is_lost = False
        self.reserved = Counters()
        self.writes: list[list[dict[str, Any]]] = []
        self.released: Counters | None = None
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    def keeps(self, event: Event | Outgoing) -> bool:
        return not event.is_interim

    async def open(self, window: float, first: Counters) -> SavedHistory:
        await self.reserve_seq(first)
        return SavedHistory([], [], first)

    def is_low(self, needed: Counters) -> bool:
        return not self.reserved.covers(needed.ahead(5, 5.0))

    async def reserve_seq(self, needed: Counters) -> None:
        self.reserved = needed.ahead(10, 10.0)

    async def append(self, events: Sequence[Event], needed: Counters) -> None:
        await self.open_gate.wait()
        if self.is_lost:
            raise OSError("another node continues the stream")
        self.reserved = self.reserved.union(needed.ahead(10, 10.0))
        self.writes.append([json.loads(event.text) for event in events])

    async def write_cues(self, cues: Iterable[Cue]) -> None:
        list(cues)

    async def release_unused(self, counters: Counters) -> None:
        self.released = counters

    async def close(self) -> None:
        pass


class Publishing:
    """A publisher with its hub, and its task."""

    def __init__(self, log: Log) -> None:
        self.hub = Hub(time.monotonic, time.time)
        self.log = log
        deps = StreamDeps(
            options=StreamOptions(),
            hub=self.hub,
            open_source=lambda url, scope: MadeSource(url),
            models=ServedModels([ServedModel("mini", "mini", None, lambda frames: np.zeros(0, np.uint8))], "mini"),
            submit=lambda sample: None,
            store=lambda name: log,
        )
        self.publisher = CaptionPublisher("door", StreamSettings(every=1.0), deps)

    async def __aenter__(self) -> Publishing:
        await self.publisher.open()
        self.publisher.register()
        self._subscription = self.hub.subscribe(SubscribeOptions(), lambda: None)
        self._subscription.take()
        self._task = asyncio.create_task(self.publisher.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.log.open_gate.set()
        self.publisher.close()
        await self._task

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self._subscription.take()]


def sample(start: float) -> Sample:
    moment = frame(start)
    pixels = moment.video_frame.to_ndarray(format="rgb24")
    now = time.monotonic()
    return Sample("door", pixels, 0, start, moment.captured_at, "arrival", now, now)


def final(start: float, text: str) -> Captioned:
    return Captioned(sample(start), text, -0.1, Times(0.0, 0.0, 0.0))


async def until(condition: Any) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not condition():
            await asyncio.sleep(0.005)


async def test_stored_events_are_published_after_the_write() -> None:
    log = Log()
    async with Publishing(log) as service:
        log.open_gate.clear()
        service.publisher.set_state(StreamState.LIVE)
        service.publisher.on_outcome(final(0.0, "a door"))
        await asyncio.sleep(0.05)
        assert service.seen() == []
        log.open_gate.set()
        await until(lambda: len(log.writes) > 0 and sum(map(len, log.writes)) == 2)
        written = [event for write in log.writes for event in write]
        await until(lambda: service.publisher.published.last is not None)
        assert [(e["type"], e["seq"]) for e in service.seen()] == [("status", 1), ("caption", 2)]
        assert [e["seq"] for e in written] == [1, 2]


async def test_final_that_waited_is_not_current_after_a_change() -> None:
    log = Log()
    async with Publishing(log) as service:
        log.open_gate.clear()
        service.publisher.set_state(StreamState.LIVE)
        service.publisher.on_outcome(final(0.0, "a door"))
        service.publisher.on_outcome(replace(final(1.0, "a dog"), confidence=0.1))
        log.open_gate.set()
        await until(lambda: service.publisher.published.last is not None)
        assert service.hub.feeds["door"].current == ()
        service.publisher.on_outcome(final(2.0, "a cat"))
        await until(lambda: service.hub.feeds["door"].current)


async def test_interims_pass_at_once_while_nothing_waits() -> None:
    log = Log()
    async with Publishing(log) as service:
        service.publisher.on_outcome(final(0.0, "a door"))
        await until(lambda: service.publisher.published.last is not None)
        service.publisher.on_outcome(Interim(sample(1.0), "a", Times(0.0, 0.0, 0.0)))
        assert [e["is_final"] for e in service.seen()] == [True, False]
        assert len(log.writes) == 1


async def test_extends_are_coalesced_between_two_writes() -> None:
    log = Log(extend_delay=0.5)
    async with Publishing(log) as service:
        service.publisher.on_outcome(final(0.0, "a door"))
        await until(lambda: log.writes)
        for start in (1.0, 2.0, 3.0):
            service.publisher.on_outcome(Unchanged(sample(start), decoded=False))
        await until(lambda: len(log.writes) == 2)
        assert [(e["type"], e["end"]) for e in log.writes[1]] == [("extend", 4.0)]
        service.publisher.on_outcome(Unchanged(sample(4.0), decoded=False))
        service.publisher.on_outcome(final(5.0, "a dog"))
        await until(lambda: len(log.writes) == 3)
        assert [e["type"] for e in log.writes[2]] == ["extend", "caption"]


async def test_taken_stream_publishes_nothing_more() -> None:
    log = Log()
    async with Publishing(log) as service:
        log.is_lost = True
        service.publisher.on_outcome(final(0.0, "a door"))
        await until(lambda: service.publisher.reason)
        assert [e["type"] for e in service.seen()] == []
    assert log.released is None
    assert service.publisher.dropped_finals == 0


async def test_number_of_a_removed_stream_is_not_used_twice() -> None:
    log = Log()
    async with Publishing(log) as service:
        service.publisher.on_outcome(final(0.0, "a door"))
        await until(lambda: service.publisher.published.last is not None)
        log.open_gate.clear()
        service.publisher.on_outcome(final(1.0, "a dog"))
        await until(lambda: service.publisher.waiting_finals)
        service.publisher.on_outcome(final(2.0, "a tree"))
        # Its last write takes longer than the service waits: viewers have the stream no longer.
        service.hub.remove("door")
        log.open_gate.set()
        await until(lambda: not service.publisher.waiting_finals)
        service.publisher.on_outcome(final(3.0, "a house"))
    seqs = [event["seq"] for write in log.writes for event in write]
    assert seqs == [1, 2, 3, 4]
    assert log.released is not None
    assert log.released.seq == 5
