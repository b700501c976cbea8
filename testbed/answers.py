"""An RTSP server that sends the same response to every request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Its port on the loopback. `{cseq}` in `answer` becomes the request's CSeq header."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError, StopIteration):
                connection.settimeout(5.0)
                while request := connection.recv(4096):
                    line = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"cseq"))
                    connection.sendall(answer.replace(b"{cseq}", line))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
