"""`AckInbox`: publishes to JetStream; the answers to all messages of a connection come to one subject."""

from __future__ import annotations

import asyncio
from collections import deque

from nats.js.errors import APIError, NoStreamResponseError
from pydantic_core import from_json

from streamcap.cluster.jetstream.direct_client import DirectCallback, DirectClient, read_header

ANSWER_SECONDS = 2.0
SWEEP_SECONDS = 0.1
"""How late the end of the wait may be noticed."""
NO_RESPONDERS = "503"


class AckInbox:
    """As `JetStreamContext.publish`, for a quarter of the CPU: that makes a random subject, a timer and a dataclass for
    each message. `open` it first.

    Messages without an answer: no bound here; an owner has one of each stream.
    """

    def __init__(self, client: DirectClient) -> None:
        self._client = client
        self._prefix = f"{client.new_inbox()}."
        self._published = 0
        self._waiting: dict[str, asyncio.Future[tuple[bytes, bytes]]] = {}
        self._sent: deque[tuple[float, asyncio.Future[tuple[bytes, bytes]]]] = deque()
        """In the order in which their time is over: one timer for all."""
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Listen for answers, also after a reconnection."""
        await self._client.subscribe(f"{self._prefix}*", cb=DirectCallback(self._take))

    async def publish(self, subject: str, body: bytes, header: bytes) -> int:
        """Returns the sequence of the stored message. `header`: a whole header block, as `make_header` makes it.

        Raises APIError: JetStream refuses it. TimeoutError after ANSWER_SECONDS, OSError, NatsError: it is not known
        whether it is stored.
        """
        self._published += 1
        token = str(self._published)
        loop = asyncio.get_running_loop()
        answer = self._waiting[token] = loop.create_future()
        self._sent.append((loop.time() + ANSWER_SECONDS, answer))
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        try:
            await self._client.publish_direct(subject, self._prefix + token, header, body)
            answer_header, answer_body = await answer
        finally:
            del self._waiting[token]
            answer.cancel()
        if answer_header and read_header(answer_header).get("Status") == NO_RESPONDERS:
            raise NoStreamResponseError
        stored = from_json(answer_body)
        if "error" in stored:
            raise APIError.from_error(stored["error"])
        return int(stored["seq"])

    def _take(self, subject: str, reply: str, header: bytes, body: bytes) -> None:
        answer = self._waiting.get(subject.rpartition(".")[2])
        if answer is not None and not answer.done():  # else it came too late
            answer.set_result((header, body))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._sent and (self._sent[0][0] <= now or self._sent[0][1].done()):
            _, answer = self._sent.popleft()
            if not answer.done():
                answer.set_exception(TimeoutError("no answer"))
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep, loop) if self._sent else None
