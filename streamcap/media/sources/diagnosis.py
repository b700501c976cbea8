"""Diagnosis of a source that does not open: host name, TCP connection, RTSP authentication."""

from __future__ import annotations

import contextlib
import re
import socket
from urllib.parse import SplitResult, urlsplit

from streamcap.media.sources.http.address import ForbiddenHostError, HostGuard

_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
_MAX_REPLY_BYTES = 16_384
_CHALLENGE = re.compile(rb"^WWW-Authenticate:[ \t]*(?P<kind>\w+)(?P<rest>[^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_ALGORITHM = re.compile(rb'algorithm="?(?P<name>[\w-]+)', re.IGNORECASE)


def connection_fault(url: str, guard: HostGuard, *, timeout: float) -> str | None:
    """Why no TCP connection is possible, in words; None if one is, or if the scheme uses none.

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
        return f"no connection to port {port} within {timeout:g} s"
    except ConnectionRefusedError:
        return "the connection was refused; is the camera on, and the port right?"
    except OSError as error:
        return f"no connection to port {port}: {error.strerror or error}"
    return None


def rtsp_challenges(url: str, guard: HostGuard, *, timeout: float) -> list[str]:
    """Authentication schemes that an `rtsp://` server offers, such as "Basic" or "Digest SHA-256"; [] if none."""
    parts = urlsplit(url)
    if parts.scheme.lower() != "rtsp" or not parts.hostname:
        return []
    reply = b""
    port = parts.port or 554
    with contextlib.suppress(OSError, ForbiddenHostError):
        address = guard.resolve(parts.hostname, port)[0]
        with socket.create_connection((address, port), timeout) as connection:
            connection.sendall(_describe(parts))
            while b"\r\n\r\n" not in reply and len(reply) < _MAX_REPLY_BYTES:
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
