"""`IceServer`: a STUN or TURN server through which browsers on other networks are reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from streamcap.errors import InputError

# RFC 7064 and 7065, and before a TURN server's host the user and password that it asks for.
_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):(?:(?P<user>[^:@\s]+):(?P<password>[^@\s]+)@)?"
    r"(?P<address>[A-Za-z0-9.-]+(?::(?P<port>\d{1,5}))?)(?P<transport>\?transport=(?:udp|tcp))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class IceServer:
    """`url` has no credentials in it; `stun:` servers ask for none."""

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """`stun:HOST[:PORT]` or `turn:USER:PASSWORD@HOST[:PORT][?transport=udp|tcp]`. Raises InputError, without the
        password.
        """
        shown = re.sub(r"^(\w*:).*@", r"\1***@", text, flags=re.DOTALL)
        found = _URL.fullmatch(text)
        if found is None or not 0 < int(found["port"] or 1) < 65536:
            raise InputError(
                f"ICE server {shown[:80]!r}: write it as stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT, '@', ':' and "
                "'%' in a password as %40, %3A and %25"
            )
        turn, transport = found["scheme"].startswith("turn"), found["transport"] or ""
        if not turn and (found["user"] or transport):
            raise InputError(f"ICE server {shown[:80]!r}: a stun: server takes no password and no transport")
        if turn and not found["user"]:
            raise InputError(f"ICE server {shown[:80]!r}: a turn: server needs turn:USER:PASSWORD@HOST:PORT")
        if found["scheme"] == "turns" and transport.endswith("udp"):
            raise InputError(f"ICE server {shown[:80]!r}: turns: goes over TCP alone")
        url = f"{found['scheme']}:{found['address']}{transport}"
        if not turn:
            return cls(url)
        username, credential = unquote(found["user"]), unquote(found["password"])
        if not (username + credential).isascii() or not (username + credential).isprintable():
            raise InputError(f"ICE server {shown[:80]!r}: user and password must be printable ASCII characters")
        return cls(url, username, credential)

    @property
    def link(self) -> str:
        """As a `Link` header tells it to a client (RFC 9725 §4.6), credentials included."""
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
