"""`Auth`: who may view and who may change things, by token, `Origin` and `Host`."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from streamcap.server.options import LOOPBACK_NAMES, ServerOptions

_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@?#\s]+)(:[0-9]{1,5})?")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="streamcap"'}


class Auth:
    """Checks one request or websocket handshake; raises HTTPException (401 or 403) with the reason."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._publish = [token.encode() for token in options.publish_tokens]
        self._view = [token.encode() for token in options.view_tokens] + self._publish
        self._origins = {normal_origin(origin) for origin in options.origins}
        self._hosts = LOOPBACK_NAMES | {options.host}

    def viewer(self, connection: HTTPConnection) -> None:
        """Let pass who may see captions, states and video."""
        self._check_origin(connection)
        if not self._options.open and not _matches(_token(connection), self._view):
            raise HTTPException(
                401, "a view token is needed: Authorization: Bearer TOKEN, or token=TOKEN in the query", _CHALLENGE
            )

    def may_publish(self, connection: HTTPConnection) -> bool:
        """Whether `publisher` would let pass."""
        return self._options.open or _matches(_token(connection), self._publish)

    def publisher(self, connection: HTTPConnection) -> None:
        """Let pass who may add and remove streams and publish video."""
        self._check_origin(connection)
        if self._options.open:
            return
        token = _token(connection)
        if _matches(token, self._publish):
            return
        if _matches(token, self._view):
            raise HTTPException(403, "a view token cannot do this; a publish token is needed")
        raise HTTPException(
            401, "a publish token is needed: Authorization: Bearer TOKEN, or token=TOKEN in the query", _CHALLENGE
        )

    def _check_origin(self, connection: HTTPConnection) -> None:
        host = connection.headers.get("host", "")
        if self._options.open and _host_name(host) not in self._hosts:
            # A page of elsewhere whose name was made to point at this machine (DNS rebinding) names itself here.
            raise HTTPException(
                403, f"host {host[:80]!r} is not this server's; open it as {self._options.host}, or set a token"
            )
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins or normal_origin(origin) in self._origins:
            return
        if not is_same_origin(origin, host):
            raise HTTPException(
                403, f"origin {origin[:80]!r} is not allowed; start the service with it as an allowed origin"
            )


def normal_origin(origin: str) -> str:
    """`origin` in lower case, without its scheme's own port, as browsers send it."""
    origin = origin.lower()
    scheme, _, authority = origin.partition("://")
    port = f":{_PORTS.get(scheme, 0)}"
    return origin.removesuffix(port) if authority.endswith(port) else origin


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` comes from the server that the header `Host: host` names.

    The scheme is not compared: behind a proxy that ends TLS this server cannot know it.
    """
    scheme, _, authority = normal_origin(origin).partition("://")
    if scheme not in _PORTS or _AUTHORITY.fullmatch(authority) is None:
        return False
    return normal_origin(f"{scheme}://{host}") == f"{scheme}://{authority}"


def _token(connection: HTTPConnection) -> bytes:
    header = connection.headers.get("authorization", "")
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    return connection.query_params.get("token", "").encode()


def _matches(token: bytes, known: Iterable[bytes]) -> bool:
    # Every one is compared in constant time, so that the time taken tells nothing.
    return any([hmac.compare_digest(token, one) for one in known])  # noqa: C419


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
