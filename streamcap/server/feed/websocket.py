"""`WebsocketProtocol`: uvicorn's websocket that can also write ready frames straight to the socket.

An ASGI `send` per viewer and message costs a task switch, a queue and one more serialization of the same text. Here a
frame is serialized once, and its bytes are written to every connection whose buffer has room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

EXTENSION = "streamcap.push"
# Buffered bytes of this process, besides the kernel's buffer, from which a connection counts as slow.
HIGH_WATER = 64 * 1024
# Seconds for the closing handshake; then the connection is aborted, since a peer that never reads never answers.
CLOSE_GRACE = 2.0


def text_frame(text: str) -> bytes:
    """One unfragmented, unmasked text frame (RFC 6455 §5.2), the same for every viewer."""
    # A reason may contain a file name that is not valid Unicode.
    return Frame(Opcode.TEXT, text.encode(errors="replace")).serialize(mask=False, extensions=())


class WebsocketProtocol(WebSocketsSansIOProtocol):
    """Endpoints get it as `scope["extensions"]["streamcap.push"]`. Call it on the event loop only."""

    on_writable: Callable[[], None] | None = None
    """Called when the buffer has space again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][EXTENSION] = self

    @property
    def is_writable(self) -> bool:
        """Whether `push` may be called: the connection is open and its buffer has space."""
        return self.writable.is_set() and not self.is_over

    @property
    def is_over(self) -> bool:
        return self.close_sent or self.disconnected or self.transport.is_closing()

    def push(self, frames: bytes) -> None:
        """Write serialized frames. Requires `is_writable` and a connection without compression."""
        self.transport.write(frames)

    def end(self, code: int, reason: str) -> None:
        """Start the closing handshake even if the buffer is full; abort the connection after CLOSE_GRACE."""
        if self.is_over:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_GRACE, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # The handshake was refused with a complete response; otherwise uvicorn logs it as an error.
            self.handshake_complete = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        # `close` waits for the buffer to drain, which never happens when the peer is gone.
        self.loop.call_later(CLOSE_GRACE, self.transport.abort)
