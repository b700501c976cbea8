"""Diagnosis of a source that does not open: host name, TCP connection, RTSP authentication."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from urllib.parse import SplitResult, urlsplit

from streamcap.media.sources.address import ForbiddenHostError, HostGuard

_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
_PLAIN = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
_GREETINGS = {"rtsp": b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", "http": b"HEAD / HTTP/1.0\r\n\r\n"}
_MAX_REPLY_BYTES = 16_384
_CHALLENGE = re.compile(rb"^WWW-Authenticate:[ \t]*(?P<kind>\w+)(?P<rest>[^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_ALGORITHM = re.compile(rb'algorithm="?(?P<name>[\w-]+)', re.IGNORECASE)


def connection_fault(url: str, guard: HostGuard, *, timeout: float) -> str | None:
    """Why no TCP connection is possible, as a message; None if it is, or if the scheme uses none.

    Resolves the name and connects once; connecting takes at most `timeout` seconds.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme.lower() not in _PORTS:
        return None
    port = parts.port or _PORTS[parts.scheme.lower()]
    try:
        addresses = guard.resolve(parts.hostname, port)
    except ForbiddenHostError as fault:
        return str(fault)
    except OSError:
        return f"the name {parts.hostname} is not known to the name server; check it"
    try:
        socket.create_connection((addresses[0], port), timeout).close()
    except TimeoutError:
        return f"no connection to port {port} within {timeout:g} s; is the address right, or a firewall between?"
    except ConnectionRefusedError:
        return "the connection was refused; is the camera on, and the port right?"
    except OSError as error:
        return f"no connection to port {port}: {error.strerror or error}"
    return None


def wrong_protocol(url: str, guard: HostGuard, *, timeout: float) -> str | None:
    """Which other protocol answers at the port of an RTSP or HTTP `url`, as a message; None if its own or nothing does.

    Connects up to twice, for at most `timeout` seconds each.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _PLAIN or not parts.hostname:
        return None
    own, secure = _PLAIN[scheme], scheme.endswith("s")
    port = parts.port or _PORTS[scheme]
    try:
        address = guard.resolve(parts.hostname, port)[0]
    except (OSError, ForbiddenHostError):
        return None
    found = _protocol_of(address, port, _GREETINGS[own], timeout)
    if found == "":
        return None
    if found is None:
        if not secure and _is_tls(address, port, timeout):
            return f"port {port} expects TLS; try {own}s://"
        return None
    if found == own:
        return f"port {port} speaks {own.upper()} without TLS; try {own}://" if secure else None
    if found == "tls":
        return None if secure else f"port {port} expects TLS; try {own}s://"
    if found == "other":
        return f"something other than {own.upper()} answers at port {port}; is the port right?"
    advice = f"try {found}://, or another port" if found in _GREETINGS else "is the port right?"
    return f"{found.upper()} answers at port {port}, not {own.upper()}; {advice}"


def _protocol_of(address: str, port: int, greeting: bytes, timeout: float) -> str | None:
    """The protocol of what a server sends after `greeting`: "rtsp", "http", "ssh", "tls" or "other"; None if it closes
    the connection, "" if it stays silent.
    """
    answer = b""
    try:
        with socket.create_connection((address, port), timeout) as connection:
            connection.sendall(greeting)
            answer = connection.recv(64)
    except TimeoutError:
        return ""
    except OSError:
        return None
    if not answer:
        return None
    starts = {b"RTSP/": "rtsp", b"HTTP/": "http", b"<": "http", b"SSH-": "ssh", b"\x15\x03": "tls"}
    return next((name for start, name in starts.items() if answer.lstrip().startswith(start)), "other")


def _is_tls(address: str, port: int, timeout: float) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection((address, port), timeout) as connection,
        context.wrap_socket(connection),
    ):
        return True
    return False


def rtsp_challenges(url: str, guard: HostGuard, *, timeout: float) -> list[str]:
    """Authentication schemes that an `rtsp://` server offers, such as "Basic" or "Digest SHA-256"; [] if none.

    Connecting and reading take at most `timeout` seconds each.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() != "rtsp" or not parts.hostname:
        return []
    reply = b""
    port = parts.port or 554
    with contextlib.suppress(OSError, ForbiddenHostError):
        address = guard.resolve(parts.hostname, port)[0]
        with socket.create_connection((address, port), timeout) as connection:
            connection.sendall(_describe(parts))
            deadline = time.monotonic() + timeout
            while b"\r\n\r\n" not in reply and len(reply) < _MAX_REPLY_BYTES:
                # Of what is left: a server may send a byte now and then.
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(4096)
                if not more:
                    break
                reply += more
    return [_challenge(match["kind"], match["rest"]) for match in _CHALLENGE.finditer(reply)]


def _describe(parts: SplitResult) -> bytes:
    host = parts.netloc.rpartition("@")[2]
    target = f"rtsp://{host}{parts.path}{f'?{parts.query}' if parts.query else ''}"
    return f"DESCRIBE {target} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n".encode()


def _challenge(kind: bytes, rest: bytes) -> str:
    name = kind.decode(errors="replace").capitalize()
    algorithm = _ALGORITHM.search(rest)
    if name == "Digest":
        return f"Digest {algorithm['name'].decode(errors='replace').upper() if algorithm else 'MD5'}"
    return name
