"""`FeedBroadcaster`: every viewer of the feed on a websocket, and the one pump that writes to them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket

from streamcap.captions.hub import CloseReason, Hub, SubscribeOptions, Subscription
from streamcap.server.feed.query import FeedRequest
from streamcap.server.feed.websocket import EXTENSION, WebsocketProtocol, text_frame

# Viewers written to in one turn of the loop: a few milliseconds, so that nothing else waits long behind a caption.
CONNECTIONS_PER_TURN = 256
# Messages of one viewer in one turn; a replay has thousands, and goes out no faster than its viewer reads.
MESSAGES_PER_TURN = 32
FRAMES_KEPT = 128

_CODES = {CloseReason.SLOW: 1013, CloseReason.REMOVED: 4404, CloseReason.STOPPING: 1001}
"""Close codes: try again later; the stream is gone (of our own range); going away."""
# A close frame's reason has 123 bytes (RFC 6455 §5.5).
_MOST_REASON_BYTES = 123


@dataclass(slots=True)
class BroadcasterStatistics:
    connected: int = 0
    """Ever."""
    refused: int = 0
    """For want of room."""
    closed_slow: int = 0
    messages: int = 0
    """Messages written."""
    interim_dropped: int = 0
    finals_dropped: int = 0


class FeedBroadcaster:
    """Counts viewers, and writes what waits for them, a bounded number of viewers and messages in each turn."""

    def __init__(self, hub: Hub, most: int) -> None:
        self.hub = hub
        self.most = most
        self.statistics = BroadcasterStatistics()
        self.present = 0
        self._pending: deque[_Connection] = deque()
        self._scheduled = False
        self._frames: dict[str, bytes] = {}

    def subscribe(self, request: FeedRequest, wake: Callable[[], None]) -> Subscription:
        """A subscription for one more viewer. Raises HTTPException (503) when full, InputError; pair with `unlock`."""
        if self.present >= self.most:
            self.statistics.refused += 1
            raise HTTPException(
                503, f"there are {self.present} viewers, the most this service takes", {"Retry-After": "5"}
            )
        subscription = self.hub.subscribe(request.options, wake, request.since)
        self.present += 1
        self.statistics.connected += 1
        return subscription

    def unlock(self, subscription: Subscription) -> None:
        """The viewer is gone."""
        self.hub.unsubscribe(subscription)
        self.present -= 1
        self.statistics.interim_dropped += subscription.statistics.interim_dropped
        self.statistics.finals_dropped += subscription.statistics.finals_dropped
        self.statistics.closed_slow += subscription.cause is CloseReason.SLOW

    async def serve(self, websocket: WebSocket, request: FeedRequest) -> None:
        """One viewer's visit, from before the handshake's answer until it is over."""
        pipe = websocket.scope.get("extensions", {}).get(EXTENSION)
        if not isinstance(pipe, WebsocketProtocol):
            raise HTTPException(501, "this server does not speak streamcap's websocket; start it with streamcap serve")
        seat = _Connection(self, pipe)
        subscription = seat.subscription = self.subscribe(request, seat.wake)
        try:
            await websocket.accept()
            seat.connected_at = True
            pipe.on_writable = seat.wake
            seat.wake()
            await _listen(websocket, pipe)
        finally:
            seat.connected_at = False
            pipe.on_writable = None
            self.unlock(subscription)

    def ws_frame(self, text: str) -> bytes:
        """The websocket frame of `text`, serialised once for all its viewers."""
        frame = self._frames.get(text)
        if frame is None:
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            frame = self._frames[text] = text_frame(text)
        return frame

    def schedule_write(self, seat: _Connection) -> None:
        """Write to `seat` in the next turn."""
        self._pending.append(seat)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        pending = self._pending
        try:
            for _ in range(min(CONNECTIONS_PER_TURN, len(pending))):
                pending.popleft().flush()
        finally:
            # Whatever became of one viewer, the others are served.
            if pending:
                asyncio.get_running_loop().call_soon(self._pump)
            else:
                self._scheduled = False


class _Connection:
    """One viewer's place between its subscription and its socket."""

    __slots__ = ("_broadcaster", "_pending", "_pipe", "connected_at", "subscription")

    def __init__(self, broadcaster: FeedBroadcaster, pipe: WebsocketProtocol) -> None:
        self.subscription = Subscription(SubscribeOptions(), self.wake)
        self.connected_at = False
        self._broadcaster = broadcaster
        self._pipe = pipe
        self._pending = False

    def wake(self) -> None:
        if self.connected_at and not self._pending:
            self._pending = True
            self._broadcaster.schedule_write(self)

    def flush(self) -> None:
        """Write of what waits, while the peer keeps up; the rest waits in the subscription under its drop policy."""
        self._pending = False
        subscription = self.subscription
        if self.connected_at and self._pipe.is_writable and len(subscription):
            texts = subscription.take(MESSAGES_PER_TURN)
            self._broadcaster.statistics.messages += len(texts)
            frame = self._broadcaster.ws_frame
            self._pipe.push(frame(texts[0]) if len(texts) == 1 else b"".join([frame(text) for text in texts]))
            if len(subscription) and self._pipe.is_writable:
                self.wake()
                return
        if subscription.cause is not None and self.connected_at:
            self._pipe.end(_CODES[subscription.cause], _short(subscription.closed or ""))


async def _listen(websocket: WebSocket, pipe: WebsocketProtocol) -> None:
    """Until the connection is over. The feed goes one way: whatever a client says ends it, with the reason."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        pipe.end(*error_message(message))


def error_message(message: Any) -> tuple[int, str]:
    """The close code and the reason that answer a client's message (of ASGI's `websocket.receive`)."""
    text = message.get("text")
    if text is None:
        return 1003, "binary frames are not taken here"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return 1007, "not JSON; and this feed takes no messages: say what you want in the query"
    return 1008, "this feed takes no messages: say what you want in the query"


def _short(reason: str) -> str:
    return reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore")
