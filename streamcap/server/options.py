"""`ServerOptions`: everything the server is told, checked once."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from streamcap.errors import InputError
from streamcap.server.ice import IceServer
from streamcap.server.path_prefix import is_prefix

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address to listen on) can be reached from this machine alone."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Tokens: none at all leaves everything open, on loopback only. With any token, viewing needs a view or a publish
    token, and changing anything (streams, WHIP) needs a publish token; without one, nothing can be changed.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    """0: any free one."""
    view_tokens: frozenset[str] = frozenset()
    publish_tokens: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    """Origins of pages of other hosts that may read the feed and the API (`https://example.org`); `*` is any."""
    allow_local: bool = False
    """Whether `POST /streams` may open files, devices and built-in scenes, not only network addresses."""
    ice_servers: tuple[IceServer, ...] = ()
    """For WebRTC, the first of each kind; none means no host outside is ever asked."""
    max_viewers: int = 10_000
    """Websocket and SSE subscribers at a time."""
    max_whep_sessions: int = 16
    """WHEP viewers of video at a time: each costs a share of an encoder."""
    max_body_bytes: int = 65_536
    max_message_bytes: int = 4_096
    """Of a websocket message from a client; the feed expects none."""
    heartbeat: float = 15.0
    """Seconds between signs of life on a silent SSE connection."""
    publisher_timeout: float = 4.0
    """Seconds without a frame after which a WHIP publisher is taken for gone: noticed and told within five."""
    root_path: str = ""
    """Path under which a proxy serves this service, such as `/cams`; empty for none."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) to serve https with; needs `tls_key`."""
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port {self.port}: use 0 to 65535")
        for token in self.view_tokens | self.publish_tokens:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise InputError("a token must be printable ASCII characters without spaces, at least one")
        for origin in self.origins:
            if origin not in ("*", "null") and ("://" not in origin or origin.endswith("/")):
                raise InputError(f"origin {origin!r}: write it as a browser sends it, such as https://example.org")
        if self.root_path and not is_prefix(self.root_path):
            raise InputError(f"--root-path {self.root_path[:80]!r}: write it as /cams, without a slash at its end")
        self._check_tls()
        if not is_loopback(self.host) and self.open:
            raise InputError(
                f"host {self.host or '(all)'} can be reached from other machines: set a token, or listen on 127.0.0.1"
            )

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return not self.view_tokens and not self.publish_tokens

    def _check_tls(self) -> None:
        if self.tls_cert is None and self.tls_key is None:
            return
        if self.tls_cert is None or self.tls_key is None:
            raise InputError("--tls-cert and --tls-key go together: a certificate chain and its key, both as PEM files")
        try:
            # A key with a password is refused: there is nobody to ask.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_cert, self.tls_key, password="")
        except OSError as error:  # an ssl.SSLError is one
            why = error.strerror or str(error)
            raise InputError(f"--tls-cert {self.tls_cert}, --tls-key {self.tls_key}: cannot be used: {why}") from None
