"""`TimedResponse`: an HTTP response whose server cannot hold its reader with a byte now and then."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class TimedResponse(http.client.HTTPResponse):
    """Its head, and each call of `read1`, takes at most the timeout of `sock`. Raises TimeoutError otherwise.

    A timeout of the socket alone counts anew with every byte: heads, sizes of chunks and trailers could trickle for
    days.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self._stream = _TimedStream(sock)
        self.fp = io.BufferedReader(self._stream)

    def begin(self) -> None:
        self._stream.restart()
        super().begin()

    def read1(self, n: int = -1) -> bytes:
        self._stream.restart()
        return super().read1(n)


class _TimedStream(io.RawIOBase):
    """What `sock` receives. From each `restart` on, its reads take at most the socket's timeout together."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._timeout = sock.gettimeout() or 0.0
        # Counts as a user of the socket, which is closed after the last one.
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = time.monotonic() + self._timeout

    def restart(self) -> None:
        self._deadline = time.monotonic() + self._timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        try:
            return self._file.readinto(buffer)
        finally:
            self._socket.settimeout(self._timeout)

    def close(self) -> None:
        self._file.close()
        super().close()
