"""`intercepting`: an RTSP proxy on the loopback that answers some requests itself, and passes the others on."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

USER, PASSWORD, REALM, NONCE = "viewer", "hunter2", "camera", "0123456789abcdef"
Intercept = Callable[[bytes], bytes | None]
"""Gets a request, with its header alone; returns the answer, in which `{cseq}` becomes the request's CSeq header, or
None: the real server answers."""


def sha256_only(request: bytes) -> bytes | None:
    """Asks for a login that libav does not know (RFC 8760)."""
    method, url = request.split(b" ")[:2]
    fields = dict(re.findall(rb'(\w+)="([^"]*)"', request.partition(b"Authorization: Digest")[2]))
    if fields.get(b"response") == _response(method, url).encode():
        return None
    challenge = f'Digest realm="{REALM}", nonce="{NONCE}", algorithm=SHA-256'
    return f"RTSP/1.0 401 Unauthorized\r\n{{cseq}}\r\nWWW-Authenticate: {challenge}\r\n\r\n".encode()


def _response(method: bytes, url: bytes) -> str:
    def digest(text: bytes) -> bytes:
        return hashlib.sha256(text).hexdigest().encode()

    user = digest(f"{USER}:{REALM}:{PASSWORD}".encode())
    return digest(user + b":" + NONCE.encode() + b":" + digest(method + b":" + url)).decode()


def always(answer: bytes) -> Intercept:
    """Sends `answer` to every request."""
    return lambda request: answer


def redirect(location: str, status: int = 302) -> Intercept:
    return lambda request: f"RTSP/1.0 {status} Moved\r\n{{cseq}}\r\nLocation: {location}\r\n\r\n".encode()


@contextmanager
def intercepting(intercept: Intercept, port: int | None = None) -> Iterator[int]:
    """The proxy's port. What `intercept` does not answer goes to the server at `port`."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=_serve, args=(connection, intercept, port)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join()


def _serve(connection: socket.socket, intercept: Intercept, port: int | None) -> None:
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        stack.enter_context(connection)
        server: socket.socket | None = None
        while head := _head(connection):
            answer = None if head.startswith(b"$") else intercept(head)
            if answer is not None:
                cseq = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"cseq")), b"CSeq: 0")
                connection.sendall(answer.replace(b"{cseq}", cseq))
                continue
            if server is None:
                server = stack.enter_context(socket.create_connection(("127.0.0.1", port or 0)))
                copying = threading.Thread(target=_copy, args=(server, connection))
                copying.start()
                stack.callback(copying.join)
                stack.callback(_end, server)
            server.sendall(re.sub(rb"Authorization: Digest[^\r]*\r\n", b"", head))


def _head(connection: socket.socket) -> bytes:
    """One request without a body, or one interleaved frame; empty at the end."""
    data = connection.recv(1)
    if data == b"$":
        data += connection.recv(3, socket.MSG_WAITALL)
        return data + connection.recv(int.from_bytes(data[2:4]), socket.MSG_WAITALL)
    while data and not data.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            return b""
        data += more
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
