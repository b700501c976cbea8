"""Server-sent events: the feed of one stream (https://html.spec.whatwg.org, §9.2)."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streamcap.captions.subscription import CloseReason, Message, Subscription
from streamcap.server.feed.broadcaster import MESSAGES_PER_TURN, FeedBroadcaster
from streamcap.server.feed.query import FeedRequest
from streamcap.server.feed.websocket import CLOSE_GRACE

RETRY_MS = 2000


def event_text(message: Message) -> str:
    """One event; `id` is the `seq`, which a browser sends back as `Last-Event-ID`. JSON text has no line breaks."""
    return f"data: {message.text}\n\n" if message.seq is None else f"id: {message.seq}\ndata: {message.text}\n\n"


class EventStream(Response):
    """A response that ends when the viewer disconnects, the stream is removed or the service stops.

    It subscribes before it sends the status line, so that an invalid request still gets an error response.
    """

    media_type = "text/event-stream"

    def __init__(self, broadcaster: FeedBroadcaster, request: FeedRequest, *, heartbeat: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._broadcaster = broadcaster
        self._request = request
        self._heartbeat = heartbeat
        self._woken = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None

    def _wake(self) -> None:
        self._woken.set()
        subscription = self._subscription
        if subscription is not None and subscription.cause is CloseReason.SLOW and self._writer is not None:
            asyncio.get_running_loop().call_later(CLOSE_GRACE, self._writer.cancel)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        subscription = self._subscription = self._broadcaster.subscribe(self._request, self._wake)
        self._writer = asyncio.create_task(self._write(subscription, send), name="sse-writer")
        disconnect = asyncio.create_task(_wait_for_disconnect(receive), name="sse-disconnect")
        try:
            await asyncio.wait((self._writer, disconnect), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._broadcaster.unsubscribe(subscription)
            for task in (self._writer, disconnect):
                task.cancel()
            await asyncio.gather(self._writer, disconnect, return_exceptions=True)

    async def _write(self, subscription: Subscription, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send(send, f"retry: {RETRY_MS}\n\n")
        while subscription.closed is None or len(subscription):
            self._woken.clear()
            messages = subscription.take_messages(MESSAGES_PER_TURN)
            if messages:
                self._broadcaster.statistics.messages += len(messages)
                await self._send(send, "".join([event_text(message) for message in messages]))
                if len(subscription):
                    await asyncio.sleep(0)  # `send` may not yield to the loop
                continue
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._woken.wait()
            except TimeoutError:
                await self._send(send, ": alive\n\n")
        with contextlib.suppress(OSError):
            await self._send(send, f": closed, {subscription.closed}\n\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(errors="replace"), "more_body": True})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
