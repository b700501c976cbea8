"""`FeedBroadcaster`: counts the feed's viewers and writes to those on websockets."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket

from streamcap.captions.hub import Hub
from streamcap.captions.subscription import CloseReason, SubscribeOptions, Subscription
from streamcap.server.feed.query import FeedRequest
from streamcap.server.feed.websocket import EXTENSION, WebsocketProtocol, text_frame

# Viewers served in one loop iteration: a few milliseconds of work, so that other tasks run in between.
CONNECTIONS_PER_TURN = 256
# Messages per viewer and iteration. A replay has thousands; it is sent no faster than the viewer reads.
MESSAGES_PER_TURN = 32
MAX_CACHED_FRAMES = 128

_CODES = {CloseReason.SLOW: 1013, CloseReason.REMOVED: 4404, CloseReason.STOPPING: 1001}
"""Close codes: try again later; stream removed (private range); going away."""
# A close frame's reason has 123 bytes (RFC 6455 §5.5).
_MAX_REASON_BYTES = 123


@dataclass(slots=True)
class BroadcasterStatistics:
    connected: int = 0
    """Viewers since the start."""
    refused: int = 0
    """Viewers refused because the limit was reached."""
    closed_slow: int = 0
    messages: int = 0
    """Messages written."""
    interim_dropped: int = 0
    finals_dropped: int = 0


class FeedBroadcaster:
    """Writes pending messages to viewers, a bounded number of viewers and messages in each loop iteration."""

    def __init__(self, hub: Hub, max_viewers: int) -> None:
        self.hub = hub
        self.max_viewers = max_viewers
        self.statistics = BroadcasterStatistics()
        self.present = 0
        self._pending: deque[_Connection] = deque()
        self._scheduled = False
        self._frames: dict[str, bytes] = {}

    def subscribe(self, request: FeedRequest, wake: Callable[[], None]) -> Subscription:
        """Subscribe one more viewer; pair with `unsubscribe`. Raises HTTPException (503: limit reached), InputError."""
        if self.present >= self.max_viewers:
            self.statistics.refused += 1
            raise HTTPException(
                503, f"{self.present} viewers are connected, the maximum of this service", {"Retry-After": "5"}
            )
        subscription = self.hub.subscribe(request.options, wake, request.since)
        self.present += 1
        self.statistics.connected += 1
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a viewer and add up its counters."""
        self.hub.unsubscribe(subscription)
        self.present -= 1
        self.statistics.interim_dropped += subscription.statistics.interim_dropped
        self.statistics.finals_dropped += subscription.statistics.finals_dropped
        self.statistics.closed_slow += subscription.cause is CloseReason.SLOW

    async def serve(self, websocket: WebSocket, request: FeedRequest) -> None:
        """Serve one viewer from the handshake until the connection is closed."""
        protocol = websocket.scope.get("extensions", {}).get(EXTENSION)
        if not isinstance(protocol, WebsocketProtocol):
            raise HTTPException(501, "this server lacks streamcap's websocket protocol; start it with streamcap serve")
        connection = _Connection(self, protocol)
        subscription = connection.subscription = self.subscribe(request, connection.wake)
        try:
            await websocket.accept()
            connection.is_open = True
            protocol.on_writable = connection.wake
            connection.wake()
            await _listen(websocket, protocol)
        finally:
            connection.is_open = False
            protocol.on_writable = None
            self.unsubscribe(subscription)

    def ws_frame(self, text: str) -> bytes:
        """The websocket frame of `text`, serialized once for all viewers."""
        frame = self._frames.get(text)
        if frame is None:
            if len(self._frames) >= MAX_CACHED_FRAMES:
                self._frames.clear()
            frame = self._frames[text] = text_frame(text)
        return frame

    def schedule_write(self, connection: _Connection) -> None:
        """Write to `connection` in the next loop iteration."""
        self._pending.append(connection)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        pending = self._pending
        try:
            for _ in range(min(CONNECTIONS_PER_TURN, len(pending))):
                pending.popleft().flush()
        finally:
            # An error of one viewer must not stop the others.
            if pending:
                asyncio.get_running_loop().call_soon(self._pump)
            else:
                self._scheduled = False


class _Connection:
    """Connects one viewer's subscription with its socket."""

    __slots__ = ("_broadcaster", "_pending", "_protocol", "is_open", "subscription")

    def __init__(self, broadcaster: FeedBroadcaster, protocol: WebsocketProtocol) -> None:
        self.subscription = Subscription(SubscribeOptions(), self.wake)
        self.is_open = False
        self._broadcaster = broadcaster
        self._protocol = protocol
        self._pending = False

    def wake(self) -> None:
        if self.is_open and not self._pending:
            self._pending = True
            self._broadcaster.schedule_write(self)

    def flush(self) -> None:
        """Write pending messages while the peer reads; the rest stays in the subscription under its drop policy."""
        self._pending = False
        subscription = self.subscription
        if self.is_open and self._protocol.is_writable and len(subscription):
            texts = subscription.take(MESSAGES_PER_TURN)
            self._broadcaster.statistics.messages += len(texts)
            frame = self._broadcaster.ws_frame
            self._protocol.push(frame(texts[0]) if len(texts) == 1 else b"".join([frame(text) for text in texts]))
            if len(subscription) and self._protocol.is_writable:
                self.wake()
                return
        if subscription.cause is not None and self.is_open:
            self._protocol.end(_CODES[subscription.cause], _short(subscription.closed or ""))


async def _listen(websocket: WebSocket, protocol: WebsocketProtocol) -> None:
    """Wait until the connection is closed. The feed is one-way: any message from the client closes it with a reason."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        protocol.end(*error_message(message))


def error_message(message: Any) -> tuple[int, str]:
    """Close code and reason for a client's message (an ASGI `websocket.receive`)."""
    text = message.get("text")
    if text is None:
        return 1003, "binary messages are not supported"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return 1007, "not JSON; this feed takes no messages: use the query of the URL"
    return 1008, "this feed takes no messages: use the query of the URL"


def _short(reason: str) -> str:
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
