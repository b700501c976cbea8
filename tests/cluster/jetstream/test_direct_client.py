"""`DirectClient` beside nats-py's own client: the same messages, the same header fields."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, MaxPayloadError

from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.direct_client import READ_SECONDS, DirectCallback, ReadPace, make_header, read_header
from testbed.timeouts import TIMEOUT_FACTOR

Taken = tuple[str, str, dict[str, str], bytes]
NATS_PY = Client()
FIELDS = {"Streamcap": "1 2 id:3 4 5 -1 0.25 node", "X": "größer"}


async def test_messages_are_those_of_nats_py_in_order(connection: Connection) -> None:
    client = connection.client
    direct: list[Taken] = []
    queued: list[Taken] = []

    async def take(message: Msg) -> None:
        queued.append((message.subject, message.reply, message.headers or {}, message.data))

    await client.subscribe("a.*", cb=DirectCallback(lambda s, r, h, b: direct.append((s, r, read_header(h), b))))
    await client.subscribe("a.*", cb=take)
    for number in range(300):
        body = b"x\r\n" * (number * 7)  # of all sizes, so that many are read in parts
        if number % 3:
            await client.publish_direct(f"a.{number}", "answer", make_header(FIELDS), body)
        else:
            await client.publish(f"a.{number}", body, reply="" if number % 2 else "answer")
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while len(queued) < 300:
            await asyncio.sleep(0.01)
    assert direct == queued
    assert [subject for subject, *_ in direct] == [f"a.{number}" for number in range(300)]


async def test_receiver_that_raises_stops_nothing(connection: Connection) -> None:
    taken: list[bytes] = []

    def take(subject: str, reply: str, header: bytes, body: bytes) -> None:
        taken.append(body)
        raise ValueError(body)

    subscription = await connection.client.subscribe("a", cb=DirectCallback(take))
    for body in (b"1", b"2"):
        await connection.client.publish_direct("a", "", make_header({}), body)
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while len(taken) < 2:
            await asyncio.sleep(0.01)
    assert taken == [b"1", b"2"]
    await subscription.unsubscribe()
    await connection.client.publish_direct("a", "", make_header({}), b"3")
    await connection.client.request("$JS.API.INFO", timeout=TIMEOUT_FACTOR)  # its answer comes after that message
    assert taken == [b"1", b"2"]


async def test_publish_is_refused_as_by_nats_py(connection: Connection) -> None:
    with pytest.raises(MaxPayloadError):
        await connection.client.publish_direct("a", "", make_header({}), bytes(2**20 + 1))
    await connection.close()
    with pytest.raises(ConnectionClosedError):
        await connection.client.publish_direct("a", "", make_header({}), b"")


NAMES = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="-"), min_size=1)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(
    st.sampled_from(["", " 100 Idle Heartbeat", " 503", " 404 No Messages", " oops"]),
    st.lists(st.builds("{}:{}".format, NAMES, VALUES) | NAMES, max_size=4),
)
@example(" 100 FlowControl Request", ["Nats-Last-Consumer: 7", "Nats-Consumer-Stalled:$JS.FC.x"])
def test_fields_of_a_header_are_those_of_nats_py(status: str, lines: list[str]) -> None:
    block = "".join([f"{line}\r\n" for line in (f"NATS/1.0{status}", *lines, "")]).encode()
    reading = NATS_PY._process_headers(block)
    with pytest.raises(StopIteration) as returned:
        reading.send(None)
    theirs = returned.value.value or {}
    theirs.pop("Description", None)
    assert read_header(block) == theirs


def test_field_with_a_line_break_is_refused() -> None:
    for value in ("a\nb", "a\rb", "a\r\nStatus: 100"):
        with pytest.raises(ValueError, match="line break"):
            make_header({"Name": value})


def test_reads_of_frequent_messages_are_apart() -> None:
    pace, now, reads = ReadPace(), 0.0, 0
    while now < 1.0:  # a message every 0.2 ms
        now += 0.0002 + pace.wait_after(now, 500)
        reads += 1
    assert reads <= 1.0 / READ_SECONDS + 1


def test_message_that_comes_alone_is_followed_by_no_pause() -> None:
    pace = ReadPace()
    assert [pace.wait_after(now, 500) for now in (0.0, 0.0051, 0.0102)] == [0.0, 0.0, 0.0]


def test_full_read_is_followed_by_the_next_at_once() -> None:
    pace = ReadPace()
    assert [pace.wait_after(now, 32_768) for now in (0.0, 0.001, 0.002)] == [0.0, 0.0, 0.0]
