"""`StreamReader`: follows a JetStream stream without a gap, over lost connections, dead servers and dead consumers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from streamcap.cluster.connection import Connection

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
# Without a message or a heartbeat for this long, the consumer is made again: its server may be dead.
SILENCE_SECONDS = 3.0
RETRY_SECONDS = 0.25
# JetStream removes a consumer that nobody reads.
INACTIVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream."""

    subject: str
    sequence: int
    """In the JetStream stream."""
    stored_at: float
    """Wall clock of the server, seconds since 1970 UTC."""
    headers: Mapping[str, str]
    body: bytes


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
        subscription = await client.subscribe(inbox)
        name = ""
        try:
            info = await self._connection.jetstream.add_consumer(
                self._stream, self._config(inbox), timeout=SILENCE_SECONDS
            )
            name = info.name
            self._began = True
            if not info.num_pending:
                self.caught_up.set()
            await self._read(subscription)
        finally:
            await subscription.unsubscribe()
            if name and client.is_connected:
                await self._delete(name)

    async def _delete(self, name: str) -> None:
        with contextlib.suppress(NatsError, OSError, TimeoutError):  # JetStream removes it after INACTIVE_SECONDS
            await self._connection.jetstream.delete_consumer(self._stream, name)

    async def _read(self, subscription: Subscription) -> None:
        expected = 1
        while True:
            message = await subscription.next_msg(timeout=SILENCE_SECONDS)
            if message.headers and message.headers.get("Status") == "100":
                if not await self._control(message, expected):
                    return
                continue
            place = message.metadata.sequence
            if place.consumer != expected:
                return  # a message was lost on its way
            expected += 1
            if place.stream > self._last:
                self._last = place.stream
                self._deliver(
                    Message(
                        message.subject,
                        place.stream,
                        message.metadata.timestamp.timestamp(),
                        message.headers or {},
                        message.data,
                    )
                )
            self.pending = message.metadata.num_pending
            if self.pending == 0:
                self.caught_up.set()

    async def _control(self, message: Msg, expected: int) -> bool:
        """Answer a heartbeat or a flow-control request. Returns whether no message is missing."""
        headers = message.headers or {}
        if message.reply:
            await self._connection.client.publish(message.reply)
        elif "Nats-Consumer-Stalled" in headers:
            await self._connection.client.publish(headers["Nats-Consumer-Stalled"])
        last = headers.get("Nats-Last-Consumer")
        return last is None or int(last) == expected - 1

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
