"""`StreamReader`: follows a JetStream stream without a gap, over lost connections, dead servers and dead consumers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from nats.errors import Error as NatsError
from nats.errors import NotJSMessageError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.direct_client import HEADER_LINE, DirectCallback, DirectClient, read_header

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
# Without a message or a heartbeat for this long, the consumer is made again: its server may be dead.
SILENCE_SECONDS = 3.0
RETRY_SECONDS = 0.25
# JetStream removes a consumer that nobody reads.
INACTIVE_SECONDS = 30.0
_CONTROL = HEADER_LINE + b" 100"


class Message(NamedTuple):
    """One message of a stream."""

    subject: str
    sequence: int
    """In the JetStream stream."""
    stored_at: float
    """Wall clock of the server, seconds since 1970 UTC."""
    headers: Mapping[str, str]
    body: bytes


class Place(NamedTuple):
    """Where a message is in its stream and in what its consumer delivers: `Msg.metadata`, in a fifth of the time."""

    sequence: int
    delivered: int
    """Number of this delivery, from 1."""
    stored_at: float
    pending: int
    """Messages of the consumer after this one."""

    @classmethod
    def of(cls, reply: str) -> Place:
        """Of a message with this reply subject (NATS ADR-15, with or without domain). Raises NotJSMessageError."""
        parts = reply.split(".")
        if len(parts) < 9 or not reply.startswith("$JS.ACK."):
            raise NotJSMessageError
        sequence, delivered, nanoseconds, pending = parts[5:9] if len(parts) == 9 else parts[7:11]
        return cls(int(sequence), int(delivered), int(nanoseconds) / 1e9, int(pending))


class _Delivery:
    """What one consumer delivers, until a message is lost or nothing comes any more."""

    def __init__(self, reader: StreamReader, client: DirectClient) -> None:
        self._reader = reader
        self._client = client
        self._next = 1
        self._last_message_at = time.monotonic()
        self._wake = asyncio.Event()
        self._answer = ""
        """Subject of the newest flow-control request; an older one counts no longer."""
        self._is_lost = False
        self._error: Exception | None = None

    async def until_failure(self) -> None:
        """Answer the flow control. Raises what the receiver of the messages raised."""
        while time.monotonic() - self._last_message_at < SILENCE_SECONDS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            if self._error is not None:
                raise self._error
            if self._is_lost:
                return
            answer, self._answer = self._answer, ""
            if answer:
                await self._client.publish(answer)

    def take(self, subject: str, reply: str, header: bytes, body: bytes) -> None:
        """A message, a heartbeat, or a flow-control request, which is answered after the messages before it."""
        if self._is_lost:
            return
        self._last_message_at = time.monotonic()
        try:
            if header.startswith(_CONTROL):
                self._control(reply, read_header(header))
                return
            place = Place.of(reply)
            if place.delivered != self._next:
                self._fail()
                return
            self._next += 1
            self._reader.take(subject, place, header, body)
        except Exception as error:  # noqa: BLE001 - the client would only log it, and the message would be lost
            self._error = error
            self._fail()

    def _control(self, reply: str, fields: Mapping[str, str]) -> None:
        if answer := reply or fields.get("Nats-Consumer-Stalled"):
            self._answer = answer
            self._wake.set()
        last = fields.get("Nats-Last-Consumer")
        if last is not None and int(last) != self._next - 1:
            self._fail()

    def _fail(self) -> None:
        """A message was lost on its way, or its receiver failed."""
        self._is_lost = True
        self._wake.set()


class StreamReader:
    """Calls `deliver` for each message of `subjects`, in order, each once. `run` is the one task.

    Parameters:
        last_per_subject: begin with the newest message of each subject.
        after: else begin with the message after this sequence.
        since: else begin with messages stored at this wall-clock time; None: with those to come.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subjects: str,
        deliver: Callable[[Message], None],
        *,
        last_per_subject: bool = False,
        after: int | None = None,
        since: float | None = None,
    ) -> None:
        self.caught_up = asyncio.Event()
        """Set once everything stored before the start has been delivered."""
        self.restarts = 0
        self.pending = 0
        """Stored messages that have not been delivered yet, as of the newest one."""
        self._connection = connection
        self._stream = stream
        self._subjects = subjects
        self._deliver = deliver
        self._last_per_subject = last_per_subject
        self._since = since
        self._last = after or 0
        self._from_sequence = after is not None
        self._began = False

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self._follow()
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("reading %s: %s; trying again", self._stream, error)
            self.restarts += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        """Read by one consumer until it fails. A consumer lives on one server, in memory: it is cheap."""
        client, inbox = self._connection.client, self._connection.client.new_inbox()
        delivery = _Delivery(self, client)
        subscription = await client.subscribe(inbox, cb=DirectCallback(delivery.take))
        name = ""
        try:
            info = await self._connection.jetstream.add_consumer(
                self._stream, self._config(inbox), timeout=SILENCE_SECONDS
            )
            name = info.name
            self._began = True
            if not info.num_pending:
                self.caught_up.set()
            await delivery.until_failure()
        finally:
            await subscription.unsubscribe()
            if name and client.is_connected:
                await self._delete(name)

    async def _delete(self, name: str) -> None:
        with contextlib.suppress(NatsError, OSError, TimeoutError):  # JetStream removes it after INACTIVE_SECONDS
            await self._connection.jetstream.delete_consumer(self._stream, name)

    def take(self, subject: str, place: Place, header: bytes, body: bytes) -> None:
        """The next message of a consumer."""
        if place.sequence > self._last:
            self._last = place.sequence
            self._deliver(Message(subject, place.sequence, place.stored_at, read_header(header), body))
        self.pending = place.pending
        if self.pending == 0:
            self.caught_up.set()

    def _config(self, inbox: str) -> ConsumerConfig:
        config = ConsumerConfig(
            deliver_subject=inbox,
            filter_subject=self._subjects,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            idle_heartbeat=HEARTBEAT_SECONDS,
            flow_control=True,
            inactive_threshold=INACTIVE_SECONDS,
            num_replicas=1,
            mem_storage=True,
        )
        if self._last or self._from_sequence:
            return config.evolve(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._last + 1)
        if self._last_per_subject:
            return config.evolve(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
        if self._since is None and not self._began:
            self._since = time.time()
        since = time.time() if self._since is None else self._since
        return config.evolve(
            deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=datetime.fromtimestamp(since, UTC)
        )
