"""`ServerOptions`: the configuration of the server, validated once."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from streamcap.errors import InputError
from streamcap.server.http.path_prefix import is_prefix
from streamcap.server.ice import IceServer

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@\\]+")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address to listen on) is reachable only from this machine."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Without tokens everything is allowed, on loopback only. With any token, viewing requires a view or publish token,
    and changes (streams, WHIP) require a publish token.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    """0: any free port."""
    view_tokens: frozenset[str] = frozenset()
    publish_tokens: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    """Other origins whose pages may use the feed and the API (`https://example.org`); `*`: any."""
    allow_local: bool = False
    """Whether HTTP clients may add files, devices, built-in scenes, and sources that listen on a local port."""
    allow_net: bool = False
    """Whether HTTP clients may add sources on loopback and private addresses. Link-local addresses: never."""
    ice_servers: tuple[IceServer, ...] = ()
    """For WebRTC, the first of each kind is used. Empty: no other host is contacted."""
    max_viewers: int = 10_000
    """Maximum concurrent websocket and SSE subscribers."""
    max_whep_sessions: int = 16
    """Maximum concurrent WHEP viewers; each costs CPU time of the encoder."""
    max_body_bytes: int = 65_536
    max_message_bytes: int = 4_096
    """Limit of a client's websocket message; the feed expects none."""
    heartbeat: float = 15.0
    """Seconds between SSE comments on an idle connection."""
    publisher_timeout: float = 4.0
    """Seconds without a frame after which a WHIP publisher is disconnected."""
    root_path: str = ""
    """Path under which a proxy serves this service, such as `/cams`; empty for none."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) for https; requires `tls_key`."""
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port {self.port}: use 0 to 65535")
        for token in self.view_tokens | self.publish_tokens:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise InputError("--token, --view-token: use printable ASCII characters without spaces, at least one")
        if self.view_tokens & self.publish_tokens:
            raise InputError("--view-token: the same as --token, which lets its holders publish; choose another")
        for origin in self.origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise InputError(f"--origin {origin!r}: write it as a browser sends it, such as https://example.org")
        if self.root_path and not is_prefix(self.root_path):
            raise InputError(f"--root-path {self.root_path[:80]!r}: write it as /cams, without a slash at its end")
        self._check_tls()
        if not is_loopback(self.host) and self.open:
            raise InputError(f"--host {self.host or '(all)'}: non-loopback addresses require --token")

    @property
    def open(self) -> bool:
        """Whether requests need no token."""
        return not self.view_tokens and not self.publish_tokens

    def _check_tls(self) -> None:
        if self.tls_cert is None and self.tls_key is None:
            return
        if self.tls_cert is None or self.tls_key is None:
            raise InputError(
                "--tls-cert and --tls-key are needed together: a certificate chain and its key, as PEM files"
            )
        try:
            # The empty password makes an encrypted key fail instead of prompting.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_cert, self.tls_key, password="")
        except OSError as error:  # an ssl.SSLError is one
            reason = error.strerror or str(error)
            raise InputError(f"--tls-cert {self.tls_cert}, --tls-key {self.tls_key}: {reason}") from None
