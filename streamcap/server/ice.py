"""`IceServer`: a STUN or TURN server, for browsers on other networks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from streamcap.errors import InputError

# RFC 7064 and 7065, extended by the user and password of a TURN server before its host.
_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):(?:(?P<user>[^:@\s]+):(?P<password>[^@\s]+)@)?"
    r"(?P<address>[A-Za-z0-9.-]+(?::(?P<port>\d{1,5}))?)(?P<transport>\?transport=(?:udp|tcp))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class IceServer:
    """`url` has no credentials; `stun:` servers need none."""

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """Parse `stun:HOST[:PORT]` or `turn:USER:PASSWORD@HOST[:PORT][?transport=udp|tcp]`. Raises InputError, with
        the password redacted.
        """
        redacted = re.sub(r"^(\w*:).*@", r"\1***@", text, flags=re.DOTALL)
        match = _URL.fullmatch(text)
        if match is None or not 0 < int(match["port"] or 1) < 65536:
            raise InputError(
                f"--ice-server {redacted[:80]!r}: use stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; "
                "percent-encode '@', ':' and '%' in the password"
            )
        turn, transport = match["scheme"].startswith("turn"), match["transport"] or ""
        if not turn and (match["user"] or transport):
            raise InputError(f"--ice-server {redacted[:80]!r}: stun: has no password and no transport")
        if turn and not match["user"]:
            raise InputError(f"--ice-server {redacted[:80]!r}: use turn:USER:PASSWORD@HOST:PORT")
        if match["scheme"] == "turns" and transport.endswith("udp"):
            raise InputError(f"--ice-server {redacted[:80]!r}: turns: supports TCP only")
        url = f"{match['scheme']}:{match['address']}{transport}"
        if not turn:
            return cls(url)
        username, credential = unquote(match["user"]), unquote(match["password"])
        if not (username + credential).isascii() or not (username + credential).isprintable():
            raise InputError(f"--ice-server {redacted[:80]!r}: user and password must be printable ASCII characters")
        return cls(url, username, credential)

    @property
    def link(self) -> str:
        """The value of a `Link` header for a client (RFC 9725 §4.6), with credentials."""
        link = f'<{self.url}>; rel="ice-server"'
        if self.username is None or self.credential is None:
            return link
        return (
            f"{link}; username={_quoted(self.username)}; credential={_quoted(self.credential)}; "
            'credential-type="password"'
        )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
