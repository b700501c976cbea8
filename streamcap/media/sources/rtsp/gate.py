"""`RtspGate`: a loopback relay between libav and an RTSP server, for what libav cannot do or must not decide.

libav connects to whatever a redirect names, resolves the name again after we have checked it, and knows no SHA-256
logins. Through the gate it connects to the loopback; the gate connects to checked addresses, follows redirects, and
answers logins.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import select
import socket
import ssl
import threading
from collections import deque
from urllib.parse import SplitResult, unquote, urlsplit

from streamcap.media.sources.base import SourceRefused
from streamcap.media.sources.diagnosis import connection_fault
from streamcap.media.sources.http.address import ForbiddenHostError, HostGuard
from streamcap.media.sources.http.client import MAX_REDIRECTS, ForbiddenUrlError, connect, secured
from streamcap.media.sources.http.login import HttpLogin
from streamcap.media.sources.rtsp.messages import Message, MessageError, RtspSplitter
from streamcap.redact import redact

_READ_BYTES = 65_536
_POLL_MS = 200
_REDIRECTS = (301, 302, 303, 305, 307, 308)
# Requests without a response. Policy when full: the oldest is forgotten; servers answer in order.
_MAX_UNANSWERED = 32
_SOURCE = re.compile(r";(?:source|destination)=[^;,]*", re.IGNORECASE)


class RtspGate:
    """One RTSP session. `url` is what libav opens; a random path keeps other local programs out.

    Parameters:
        url: the camera's, with its password.
        timeout: maximum seconds for connecting and for each write.

    Raises SourceRefused if the camera cannot be reached; ForbiddenUrlError if its address may not be connected to.
    """

    def __init__(self, url: str, guard: HostGuard, *, timeout: float) -> None:
        parts = urlsplit(url)
        self.fault: SourceRefused | None = None
        """Why the gate ended the session; None if it did not."""
        self._where = redact(url)
        self._guard = guard
        self._timeout = timeout
        named = parts.username is not None
        self._login = HttpLogin(unquote(parts.username or ""), unquote(parts.password or "")) if named else None
        self._origin = (parts.scheme.lower(), parts.hostname, parts.port)
        self._target = without_login(parts)
        self._redirects = 0
        self._unanswered: deque[Message] = deque(maxlen=_MAX_UNANSWERED)
        self._tried_login = False
        self._is_admitted = False
        """Whether the client has shown that it knows the random path."""
        self._closing = threading.Event()
        self._server = self._connect(url)
        self._peer = self._server.getpeername()[0]
        self._from_server = RtspSplitter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(timeout)
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/{secrets.token_hex(16)}"
        self._thread = threading.Thread(target=self._run, name="rtsp-gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the session. Idempotent, bounded in time."""
        self._closing.set()
        self._thread.join(self._timeout)

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: self._server.close())
            stack.enter_context(self._listener)
            with contextlib.suppress(OSError, MessageError):
                client, _ = self._listener.accept()
                stack.enter_context(client)
                client.settimeout(self._timeout)
                try:
                    self._relay(client)
                except SourceRefused as refused:
                    self.fault = refused

    def _relay(self, client: socket.socket) -> None:
        from_client = RtspSplitter()
        poll = select.poll()  # select() supports no descriptor above 1,023
        poll.register(client, select.POLLIN)
        watched = self._server
        poll.register(watched, select.POLLIN)
        while not self._closing.is_set():
            ready = {descriptor for descriptor, _ in poll.poll(_POLL_MS)}
            if client.fileno() in ready:
                data = client.recv(_READ_BYTES)
                if not data:
                    return
                for part in from_client.feed(data):
                    self._send_on(part)
            if watched.fileno() in ready or _has_decrypted(watched):
                data = watched.recv(_READ_BYTES)
                if not data:
                    return
                for part in self._from_server.feed(data):
                    if (answer := self._answered(part)) is not None:
                        client.sendall(answer)
            if self._server is not watched:
                poll.unregister(watched)
                watched.close()
                watched = self._server
                poll.register(watched, select.POLLIN)

    def _send_on(self, part: bytes) -> None:
        """Send what libav wrote to the camera."""
        if part.startswith(b"$"):
            self._server.sendall(part)
            return
        message = Message.parse(part)
        if message.status is None:
            self._unanswered.append(message)
            self._tried_login = False
            self._send_request(message)
        else:
            self._server.sendall(part)

    def _send_request(self, message: Message) -> None:
        method, _, rest = message.first.partition(" ")
        url, _, version = rest.rpartition(" ")
        if url == self.url or url.startswith(f"{self.url}/"):
            self._is_admitted = True
            url = self._target + url[len(self.url) :]
        elif not self._is_admitted:
            raise MessageError("the first request does not know the path: another program")
        sent = Message(f"{method} {url} {version}", list(message.headers), message.body)
        authorization = self._login.header(method, url) if self._login is not None else None
        if authorization:
            sent.replace("Authorization", authorization)
        self._server.sendall(sent.encode())

    def _answered(self, part: bytes) -> bytes | None:
        """What libav gets of what the camera sent; None if the gate handles it."""
        if part.startswith(b"$"):
            return part
        message = Message.parse(part)
        if message.status is None or not self._unanswered:
            return part
        request = self._unanswered.popleft()
        location = next(iter(message.all("Location")), None)
        if message.status == 401 and self._login is not None:
            self._log_in(message, request)
            return None
        if message.status in _REDIRECTS and location:
            self._redirect(location, request)
            return None
        transport = next(iter(message.all("Transport")), None)
        if transport is not None and "interleaved" not in transport.lower():
            # libav sends receiver reports to the address named here.
            message.replace("Transport", f"{_SOURCE.sub('', transport)};source={self._peer}")
            return message.encode()
        return part

    def _log_in(self, response: Message, request: Message) -> None:
        assert self._login is not None  # noqa: S101 - the caller checked it
        challenges = response.all("WWW-Authenticate")
        if self._tried_login:
            raise SourceRefused(f"{self._where}: 401: it does not accept this user name and password", retry=False)
        if not self._login.answer(challenges):
            offered = redact(", ".join(challenges))[:80] or "no way to log in"
            raise SourceRefused(f"{self._where}: 401: it offers {offered}; Basic and Digest are known", retry=False)
        self._tried_login = True
        self._repeat(request)

    def _redirect(self, location: str, request: Message) -> None:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise SourceRefused(f"{self._where}: it redirects more than {MAX_REDIRECTS} times", retry=True)
        try:
            parts = urlsplit(location)
            origin = (parts.scheme.lower(), parts.hostname, parts.port)
        except ValueError:
            parts, origin = SplitResult("", "", "", "", ""), ("", None, None)
        if origin[0] not in ("rtsp", "rtsps") or not parts.hostname:
            raise ForbiddenUrlError(f"{self._where}: it leads to something that is not RTSP")
        if origin != self._origin:
            # The password belongs to the first server.
            self._login, self._origin = None, origin
        # `_relay` closes the old connection.
        self._server = self._connect(location, redirected=True)
        self._peer = self._server.getpeername()[0]
        self._from_server = RtspSplitter()
        self._target = without_login(parts)
        self._unanswered.clear()
        self._repeat(request)

    def _repeat(self, request: Message) -> None:
        self._unanswered.appendleft(request)
        self._send_request(request)

    def _connect(self, url: str, *, redirected: bool = False) -> socket.socket:
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme.lower() == "rtsps"
        port = parts.port or (322 if secure else 554)
        try:
            raw = connect(self._guard.resolve(host, port), port, self._timeout)
            return secured(raw, host) if secure else raw
        except ForbiddenHostError as fault:
            leads = "it leads to " if redirected else ""
            raise ForbiddenUrlError(f"{self._where}: {leads}{host[:80]}: {fault}") from None
        except OSError as error:
            fault_in_words = connection_fault(url, self._guard, timeout=min(2.0, self._timeout))
            reason = fault_in_words or redact(error.strerror or error)
            raise SourceRefused(f"{self._where}: {reason}", retry=True) from None


def without_login(parts: SplitResult) -> str:
    """The URL without user name and password."""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _has_decrypted(connection: socket.socket) -> bool:
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
