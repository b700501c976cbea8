"""`RtspRelay`: passes messages between libav and an RTSP server, for what libav cannot do or must not decide.

libav connects to whatever a redirect names, resolves the name again after we have checked it, and knows no SHA-256
logins. Through the relay it connects to the loopback; the relay connects to checked addresses, follows redirects, and
answers logins. Once libav has opened the session, the media may be read from the relay: many packets at once, where
libav makes eight system calls for each.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import SplitResult, unquote, urlsplit

from streamcap.media.sources.address import ForbiddenHostError, HostGuard
from streamcap.media.sources.base import SourceRefused
from streamcap.media.sources.diagnosis import connection_fault, wrong_protocol
from streamcap.media.sources.http.client import MAX_REDIRECTS, ForbiddenUrlError, connect, secured
from streamcap.media.sources.http.login import HttpLogin
from streamcap.media.sources.rtsp.messages import Message, MessageError, RtspSplitter
from streamcap.redact import redact

_READ_BYTES = 65_536
_POLL_MS = 200
_DIAGNOSIS_SECONDS = 2.0
_REDIRECTS = (301, 302, 303, 305, 307, 308)
# Requests without a response. Policy when full: the oldest is forgotten; servers answer in order.
_MAX_UNANSWERED = 32
_SOURCE = re.compile(r";(?:source|destination)=[^;,]*", re.IGNORECASE)
_CHANNEL = re.compile(r"interleaved=(\d{1,3})", re.IGNORECASE)
_TIMEOUT = re.compile(r"timeout=(\d{1,6})", re.IGNORECASE)
# RFC 2326, 12.37: of a session whose server names none.
_SESSION_SECONDS = 60
# Media that came while libav opened the session. If there is more, it cannot be read from the relay.
_MAX_MEDIA_BYTES = 64 << 20
# Requests of a server while it plays that are answered; any other gets 501.
_KNOWN = ("OPTIONS", "GET_PARAMETER")


class RtspRelay:
    """One RTSP session. `url` is what libav opens; a random path keeps other local programs out.

    Parameters:
        url: the camera's, with its password.
        timeout: maximum seconds for each write.
        connect_timeout: maximum seconds for connecting; `timeout` unless given.

    Raises SourceRefused if the camera cannot be reached; ForbiddenUrlError if its address may not be connected to.
    """

    def __init__(
        self,
        url: str,
        guard: HostGuard,
        *,
        timeout: float,
        connect_timeout: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        self.fault: SourceRefused | None = None
        """Why the relay ended the session; None if it did not."""
        self.description = ""
        """The session description (SDP) of the server."""
        self.channels: list[int] = []
        """The interleaved channel of each stream that was set up, in order: that of its RTP."""
        self.is_drained = False
        """Whether the last `read` has probably read all that had come."""
        self._where = redact(url)
        self._guard = guard
        self._timeout = timeout
        self._connect_timeout = timeout if connect_timeout is None else connect_timeout
        self._monotonic = monotonic
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
        self._media: list[bytes] | None = []
        """What came while libav opened the session, whole interleaved frames; None: not kept."""
        self._media_bytes = 0
        self._diverted = False
        self._not_rtsp: MessageError | None = None
        """Why relaying ended."""
        self._played = ""
        """The URL of the session."""
        self._session = ""
        self._may_ask_parameters = False
        self._keep_alive_seconds = _SESSION_SECONDS / 2
        self._keep_alive_at = 0.0
        self._requests = 0
        self._server = self._connect(url)
        self._peer = self._server.getpeername()[0]
        self._from_server = RtspSplitter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(timeout)
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/{secrets.token_hex(16)}"
        self._thread = threading.Thread(target=self._run, name="rtsp-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the session. Idempotent, bounded in time."""
        self._closing.set()
        self._thread.join(self._timeout)
        if self._diverted:
            self._diverted = False
            with contextlib.suppress(OSError):
                self._ask("TEARDOWN")
            self._server.close()

    def keep_relaying(self) -> None:
        """The media is not read from the relay, but relayed until the end."""
        self._media = None

    def divert(self) -> bool:
        """Relay no longer, so that `read` gives the media from its beginning on. Returns whether that is possible."""
        if self._media is None or not self._played:
            return False
        self._diverted = True
        self._thread.join(self._timeout)
        self._keep_alive_at = self._monotonic() + self._keep_alive_seconds
        return not self._thread.is_alive()

    def read(self, timeout: float) -> list[bytes] | None:
        """The interleaved frames that came next, whole ones; None: the server closed the connection.

        Call it after `divert`. Raises TimeoutError after `timeout` seconds without data; OSError, MessageError,
        SourceRefused.
        """
        media, self._media = self._media, None
        if media:
            return media
        if self._not_rtsp is not None:
            raise self._not_rtsp
        if self._server.fileno() < 0:  # the session ended before it was diverted
            return None
        if self._monotonic() >= self._keep_alive_at:
            self._keep_alive_at = self._monotonic() + self._keep_alive_seconds
            self._ask("GET_PARAMETER" if self._may_ask_parameters else "OPTIONS")
        if timeout <= 0:
            raise TimeoutError
        self._server.settimeout(timeout)
        data = self._server.recv(_READ_BYTES)
        if not data:
            return None
        self.is_drained = len(data) < _READ_BYTES and not _has_decrypted(self._server)
        parts = self._from_server.feed(data)
        for part in parts:
            if not part.startswith(b"$"):
                self._note_message(Message.parse(part))
        return [part for part in parts if part.startswith(b"$")]

    def _note_message(self, message: Message) -> None:
        """Handle what the server says between the frames of a session that plays."""
        if message.status is None:
            status = "200 OK" if message.first.partition(" ")[0] in _KNOWN else "501 Not Implemented"
            headers = [(name, value) for name, value in message.headers if name.lower() in ("cseq", "session")]
            self._server.sendall(Message(f"RTSP/1.0 {status}", headers).encode())
        elif self._unanswered:
            request = self._unanswered.popleft()
            # Any other refusal has no consequence as long as frames come.
            if message.status == 401:
                self._logs_in(message, request)

    def _ask(self, method: str) -> None:
        """Send a request of the relay's own. Raises OSError."""
        self._requests += 1
        headers = [("CSeq", str(self._requests)), ("Session", self._session)]
        request = Message(f"{method} {self._played} RTSP/1.0", headers)
        self._unanswered.append(request)
        self._tried_login = False
        self._send_request(request)

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            # What is diverted belongs to the thread that reads it.
            stack.callback(lambda: None if self._diverted else self._server.close())
            stack.enter_context(self._listener)
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                stack.enter_context(client)
                client.settimeout(self._timeout)
                try:
                    self._relay(client)
                except SourceRefused as refused:
                    self.fault = refused
                except MessageError as error:
                    self._not_rtsp = error

    def _relay(self, client: socket.socket) -> None:
        from_client = RtspSplitter()
        poll = select.poll()  # select() supports no descriptor above 1,023
        poll.register(client, select.POLLIN)
        watched = self._server
        poll.register(watched, select.POLLIN)
        while not (self._closing.is_set() or self._diverted):
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
                    self._keep(part)
                    if (answer := self._answered(part)) is not None:
                        client.sendall(answer)
            if self._server is not watched:
                poll.unregister(watched)
                watched.close()
                watched = self._server
                poll.register(watched, select.POLLIN)

    def _keep(self, part: bytes) -> None:
        if self._media is None or not part.startswith(b"$"):
            return
        self._media_bytes += len(part)
        if self._media_bytes > _MAX_MEDIA_BYTES:
            self._media = None
        else:
            self._media.append(part)

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
        """What libav gets of what the camera sent; None if the relay handles it."""
        if part.startswith(b"$"):
            return part
        message = Message.parse(part)
        if message.status is None or not self._unanswered:
            return part
        request = self._unanswered.popleft()
        location = next(iter(message.all("Location")), None)
        if message.status == 200:
            self._note(request, message)
        if message.status == 401 and self._logs_in(message, request):
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

    def _note(self, request: Message, response: Message) -> None:
        """What the relay needs to go on with the session by itself."""
        method, _, rest = request.first.partition(" ")
        self._requests = max(self._requests, *(int(one) for one in request.all("CSeq") if one.isdecimal()), 0)
        if method == "OPTIONS":
            self._may_ask_parameters = any("GET_PARAMETER" in one.upper() for one in response.all("Public"))
        elif method == "DESCRIBE":
            self.description = response.body.decode("utf-8", "replace")
        elif method == "SETUP":
            transports = *response.all("Transport"), *request.all("Transport")
            channel = next(filter(None, map(_CHANNEL.search, transports)), None)
            self.channels.append(int(channel[1]) if channel else -1)
            for session in response.all("Session"):
                self._session = session.partition(";")[0].strip()
                if seconds := _TIMEOUT.search(session):
                    self._keep_alive_seconds = max(1, int(seconds[1])) / 2
        elif method == "PLAY":
            self._played = rest.rpartition(" ")[0]

    def _logs_in(self, response: Message, request: Message) -> bool:
        """Repeat a refused request with the login; False if there is none to try."""
        if self._login is None or self._tried_login or not self._login.answer(response.all("WWW-Authenticate")):
            return False
        self._tried_login = True
        self._repeat(request)
        return True

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
            raw = connect(self._guard.resolve(host, port), port, self._connect_timeout)
            return secured(raw, host) if secure else raw
        except ForbiddenHostError as fault:
            leads = "it leads to " if redirected else ""
            raise ForbiddenUrlError(f"{self._where}: {leads}{host[:80]}: {fault}") from None
        except OSError as error:
            timeout = min(_DIAGNOSIS_SECONDS, self._connect_timeout)
            fault_in_words = connection_fault(url, self._guard, timeout=timeout)
            fault_in_words = fault_in_words or wrong_protocol(url, self._guard, timeout=timeout)
            reason = fault_in_words or redact(error.strerror or error)
            raise SourceRefused(f"{self._where}: {reason}", retry=True) from None


def without_login(parts: SplitResult) -> str:
    """The URL without user name and password."""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _has_decrypted(connection: socket.socket) -> bool:
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
