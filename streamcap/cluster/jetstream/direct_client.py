"""`DirectClient`: nats-py's client with a short way for the messages of which a node has thousands a second.

nats-py makes of each message a dictionary, an object and an item of a queue from which a task calls a coroutine: 27 µs.
A message for a `DirectCallback` costs 9 µs. nats-py also wakes the process for each message; under load a
`DirectClient` reads at most every READ_SECONDS, many messages at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, MaxPayloadError, OutboundBufferLimitError
from nats.protocol.parser import Parser

Receiver = Callable[[str, str, bytes, bytes], None]
"""Called with subject, reply subject, header block and body of a message; the first three may be empty."""
HEADER_LINE = b"NATS/1.0"
READ_SECONDS = 0.005
"""Between two reads while messages come faster than that: what it adds to a message's way."""


class DirectCallback:
    """For `DirectClient.subscribe(subject, cb=DirectCallback(receive))`: `receive` is called for each message as soon
    as it is read, in order. It must be short, since nothing else is read meanwhile. What it raises goes to `error_cb`.
    """

    def __init__(self, receive: Receiver) -> None:
        self.receive = receive

    async def func(self, message: Msg) -> None:
        """nats-py wants a coroutine function. No message comes here."""
        raise AssertionError("a message for a DirectCallback came to the queue")

    __call__ = func


class ReadPace:
    """How long to wait after a read, so that the next one takes many messages. Pure; `now` in seconds."""

    def __init__(self) -> None:
        self._read_at = -READ_SECONDS

    def wait_after(self, now: float, size: int) -> float:
        """Seconds, after a read at `now` of `size` bytes: 0 for a message that comes alone, and while more than one
        read's worth waits."""
        is_frequent = now - self._read_at < READ_SECONDS
        self._read_at = now
        if not is_frequent or size >= DEFAULT_BUFFER_SIZE:
            return 0.0
        self._read_at += READ_SECONDS
        return READ_SECONDS


class _PacedParser(Parser):
    """nats-py reads again when what was read before is parsed."""

    def __init__(self, client: DirectClient) -> None:
        super().__init__(client)
        self._client = client
        self._pace = ReadPace()

    async def parse(self, data: bytes = b"") -> None:
        await super().parse(data)
        wait = self._pace.wait_after(asyncio.get_running_loop().time(), len(data))
        if wait:
            await self._client.pause_reading(wait)


class DirectClient(Client):
    """Everything that nats-py's client is, and what is said above."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _PacedParser(self)

    async def pause_reading(self, seconds: float) -> None:
        """Let what arrives wait in the socket: the event loop must not wake for it."""
        writer = getattr(self._transport, "_io_writer", None)  # none: a websocket
        if writer is None or writer.transport.is_closing():
            return
        writer.transport.pause_reading()
        try:
            await asyncio.sleep(seconds)
        finally:
            if not writer.transport.is_closing():
                writer.transport.resume_reading()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # The parser calls this for each message.
        subscription = self._subs.get(sid)
        callback = None if subscription is None else subscription._cb
        if type(callback) is not DirectCallback:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            callback.receive(subject.decode(errors="replace"), reply.decode(errors="replace"), headers or b"", data)
        except Exception as error:  # noqa: BLE001 - else the client would read no more
            await self._error_cb(error)

    async def publish_direct(self, subject: str, reply: str, header: bytes, body: bytes) -> None:
        """As `publish`, for a quarter of the CPU: neither the subjects nor `header`, a whole block with its empty line,
        are checked.

        Raises ConnectionClosedError, MaxPayloadError; OutboundBufferLimitError while there is no connection and enough
        waits for it.
        """
        size = len(header) + len(body)
        if self.is_closed or self.is_draining_pubs:
            raise ConnectionClosedError
        if size > self._max_payload:
            raise MaxPayloadError
        if not self.is_connected and size + self._pending_data_size > self._max_pending_size:
            raise OutboundBufferLimitError
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(body)
        await self._send_command(
            b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), len(header), size, header, body)
        )
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()


def read_header(block: bytes) -> dict[str, str]:
    """The fields of a header block; `Status` is that of the server, as with nats-py. Lines that are no field are left
    out."""
    if not block:
        return {}
    first, *lines = block.decode(errors="replace").split("\r\n")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value.strip(" \t\v\f")
    status = first[len(HEADER_LINE) :].split(maxsplit=1)
    if status and status[0].isdecimal():
        fields["Status"] = status[0]
    return fields


def make_header(fields: dict[str, str]) -> bytes:
    """The header block with `fields`. Raises ValueError for a line break in one: it would begin another field."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    if lines.count("\n") + lines.count("\r") != 2 * len(fields):
        raise ValueError("a line break in a field of a header")
    return b"%b\r\n%b\r\n" % (HEADER_LINE, lines.encode())
