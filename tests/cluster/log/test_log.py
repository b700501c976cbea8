"""The log's writer and reader against a real nats-server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from streamcap.captions.event import Status, StreamState, encode
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import LOG_STREAM, name_of
from streamcap.cluster.log.entry import read_entry
from streamcap.cluster.log.ownership import LogEntry, NotOwnerError
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.cluster.log.stored_event import read_event
from streamcap.cluster.log.writer import LogWriter
from streamcap.cluster.tasks import end_tasks
from streamcap.streams.counters import Counters
from testbed.nats import NatsCluster
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captions.fakes import caption


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not condition():
            await asyncio.sleep(0.01)


class Reading:
    """Reads all logs into `entries`."""

    def __init__(self, connection: Connection) -> None:
        self.entries: list[LogEntry] = []
        self.reader = StreamReader(connection, LOG_STREAM, "sc.cap.*", self._take, since=0.0)

    def _take(self, message: Message) -> None:
        self.entries.append(read_entry(name_of(message.subject), message.sequence, message.headers, message.body))

    async def __aenter__(self) -> Reading:
        self._task = asyncio.create_task(self.reader.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks((self._task,))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(text) for entry in self.entries for text in entry.events]


def writer(connection: Connection, node: str, lost: list[str] | None = None, stream: str = "cam.1") -> LogWriter:
    return LogWriter(connection, stream, node, (lost if lost is not None else []).append)


async def test_next_owner_goes_on_and_fences_the_former(connection: Connection) -> None:
    lost: list[str] = []
    first, second = writer(connection, "a", lost), writer(connection, "b")
    assert (await first.open(60, Counters())).counters == Counters()
    payload = caption(stream="cam.1", number=1)
    needed = Counters().after(payload)
    await first.append([encode(1, payload)], needed)
    begin = (await second.open(60, Counters())).counters
    assert begin == needed.reservation()
    with pytest.raises(NotOwnerError):
        await first.append([encode(2, caption(stream="cam.1", number=2))], needed)
    assert lost == ["cam.1"] and first.is_lost
    await second.append([encode(begin.seq, caption(stream="cam.1", number=begin.caption))], begin)
    async with Reading(connection) as reading:
        await until(lambda: len(reading.entries) == 4)
    assert [event["seq"] for event in reading.events] == [1, begin.seq]
    assert [(entry.node, entry.term) for entry in reading.entries] == [("a", 1), ("a", 1), ("b", 2), ("b", 2)]


async def test_released_stream_goes_on_without_a_gap(connection: Connection) -> None:
    first = writer(connection, "a")
    await first.open(60, Counters())
    payload = caption(stream="cam.1", number=1)
    needed = Counters().after(payload)
    await first.append([encode(1, payload)], needed)
    await first.release_unused(needed)
    await first.close()
    assert (await writer(connection, "b").open(60, Counters())).counters == needed


async def test_silent_owner_keeps_the_end_of_its_log(connection: Connection) -> None:
    """A camera that is away for longer than JetStream keeps messages."""
    jetstream = connection.jetstream
    config = (await jetstream.stream_info(LOG_STREAM)).config
    await jetstream.update_stream(config.evolve(max_age=1.0, duplicate_window=1.0))
    connection.keep_seconds = 1.0
    first = writer(connection, "a")
    await first.open(60, Counters())
    await first.append([encode(1, Status("cam.1", StreamState.RECONNECTING))], Counters(2))
    until_old = asyncio.get_running_loop().time() + 2.5
    while asyncio.get_running_loop().time() < until_old:
        if first.is_low(Counters(2)):  # as the publisher does at each progress report
            await first.reserve_seq(Counters(2))
            assert not first.is_low(Counters(2))
        await asyncio.sleep(0.05)
    await first.append([encode(2, Status("cam.1", StreamState.LIVE))], Counters(3))
    second = writer(connection, "b")
    assert (await second.open(60, Counters())).counters == Counters(3).reservation()


async def test_writes_wait_while_the_server_is_down(connection: Connection, nats_server: NatsCluster) -> None:
    log = writer(connection, "a")
    await log.open(60, Counters())
    nats_server.servers[0].kill()
    task = asyncio.create_task(log.append([encode(1, Status("cam.1", StreamState.LIVE))], Counters(2)))
    await asyncio.sleep(0.3)
    assert not task.done()
    nats_server.servers[0].start()
    async with asyncio.timeout(TIMEOUT_FACTOR):
        await task
    async with Reading(connection) as reading:
        await until(lambda: reading.events)
    assert [event["seq"] for event in reading.events] == [1]


async def test_write_whose_answer_is_lost_is_stored_once(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, publish = writer(connection, "a"), connection.acks.publish
    await log.open(60, Counters())
    answers = iter([False, True])

    async def lose_the_first(subject: str, body: bytes, header: bytes) -> int:
        sequence = await publish(subject, body, header)
        if next(answers, True):
            return sequence
        raise TimeoutError

    monkeypatch.setattr(connection.acks, "publish", lose_the_first)
    await log.append([encode(1, Status("cam.1", StreamState.LIVE))], Counters(2))
    await log.append([encode(2, Status("cam.1", StreamState.STALLED))], Counters(3))
    async with Reading(connection) as reading:
        await until(lambda: len(reading.events) >= 2)
    assert [event["seq"] for event in reading.events] == [1, 2]


async def test_reader_fails_if_its_receiver_does(connection: Connection) -> None:
    def fail(message: Message) -> None:
        raise ValueError(message.subject)

    await writer(connection, "a").open(60, Counters())
    with pytest.raises(ValueError, match=r"sc\.cap\.cam=1"):
        async with asyncio.timeout(TIMEOUT_FACTOR):
            await StreamReader(connection, LOG_STREAM, "sc.cap.*", fail, since=0.0).run()


async def test_reader_goes_on_after_the_server_restarts(connection: Connection, nats_server: NatsCluster) -> None:
    log = writer(connection, "a")
    await log.open(60, Counters())
    async with Reading(connection) as reading:
        await log.append([encode(1, Status("cam.1", StreamState.LIVE))], Counters(2))
        await until(lambda: len(reading.events) == 1)
        nats_server.servers[0].kill()
        nats_server.servers[0].start()
        await log.append([encode(2, Status("cam.1", StreamState.STALLED, "no frame"))], Counters(3))
        await until(lambda: len(reading.events) == 2)
    assert [event["seq"] for event in reading.events] == [1, 2]


@pytest.mark.parametrize(
    "text", ["[]", '{"type":"caption","stream":"door"}', '{"type":"status","stream":"yard","seq":1}', "{"]
)
def test_foreign_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_event("door", text)


def test_foreign_message_is_refused() -> None:
    with pytest.raises(ValueError, match="no header Streamcap"):
        read_entry("door", 3, {}, b"")


async def test_read_that_a_dead_leader_got_is_made_again(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamcap.cluster.log.fenced_subject.ANSWER_SECONDS", 0.05)
    read, asked = connection.jetstream.get_last_msg, list[str]()

    async def lose_the_first(stream: str, subject: str) -> object:
        asked.append(subject)
        if len(asked) == 1:
            await asyncio.Event().wait()
        return await read(stream, subject)

    monkeypatch.setattr(connection.jetstream, "get_last_msg", lose_the_first)
    async with asyncio.timeout(TIMEOUT_FACTOR):
        await writer(connection, "a").open(60, Counters())
    assert len(asked) >= 2
