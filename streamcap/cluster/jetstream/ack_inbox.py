"""`AckInbox`: publishes to JetStream; the answers to all messages of a connection come to one subject."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError, NoStreamResponseError

ANSWER_SECONDS = 2.0
SWEEP_SECONDS = 0.1
"""How late the end of the wait may be noticed."""
NO_RESPONDERS = "503"


class AckInbox:
    """As `JetStreamContext.publish`, for half the CPU: that makes a random subject, a timer and a dataclass for each
    message. `open` it first.

    Messages without an answer: no bound here; an owner has one of each stream.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = f"{client.new_inbox()}."
        self._published = 0
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._sent: deque[tuple[float, asyncio.Future[Msg]]] = deque()
        """In the order in which their time is over: one timer for all."""
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Listen for answers, also after a reconnection."""
        await self._client.subscribe(f"{self._prefix}*", cb=self._take)

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Returns the sequence of the stored message.

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
            await self._client.publish(subject, body, reply=self._prefix + token, headers=dict(headers))
            message = await answer
        finally:
            del self._waiting[token]
            answer.cancel()
        if message.headers and message.headers.get("Status") == NO_RESPONDERS:
            raise NoStreamResponseError
        stored = json.loads(message.data)
        if "error" in stored:
            raise APIError.from_error(stored["error"])
        return int(stored["seq"])

    async def _take(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():  # else it came too late
            answer.set_result(message)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._sent and (self._sent[0][0] <= now or self._sent[0][1].done()):
            _, answer = self._sent.popleft()
            if not answer.done():
                answer.set_exception(TimeoutError("no answer"))
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep, loop) if self._sent else None
