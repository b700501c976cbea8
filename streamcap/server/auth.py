"""`Auth`: checks who may view and who may publish, by token, `Origin` and `Host`."""

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
    """Checks requests and websocket handshakes. Raises HTTPException (401 or 403) with the reason.

    `viewer` and `publisher` are coroutines because FastAPI runs other dependencies on threads: on a busy machine a
    request would wait twice more for Python's lock.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._publish = [token.encode() for token in options.publish_tokens]
        self._view = [token.encode() for token in options.view_tokens] + self._publish
        self._origins = {normal_origin(origin) for origin in options.origins}
        self._hosts = LOOPBACK_NAMES | {options.host}

    async def viewer(self, connection: HTTPConnection) -> None:
        """Require permission to see captions, states and video."""
        self._check_origin(connection)
        if not self._options.open and not _matches(_token(connection), self._view):
            raise HTTPException(
                401, "view token required: send Authorization: Bearer TOKEN, or token=TOKEN in the query", _CHALLENGE
            )

    def may_publish(self, connection: HTTPConnection) -> bool:
        """Whether `publisher` would accept this connection."""
        return self._options.open or _matches(_token(connection), self._publish)

    async def publisher(self, connection: HTTPConnection) -> None:
        """Require permission to add, change and remove streams and to publish video."""
        self._check_origin(connection)
        if self._options.open:
            return
        token = _token(connection)
        if _matches(token, self._publish):
            return
        if _matches(token, self._view):
            raise HTTPException(403, "publish token required; this is a view token")
        raise HTTPException(
            401, "publish token required: send Authorization: Bearer TOKEN, or token=TOKEN in the query", _CHALLENGE
        )

    def _check_origin(self, connection: HTTPConnection) -> None:
        host = connection.headers.get("host", "")
        if self._options.open and _host_name(host) not in self._hosts:
            # DNS rebinding: a foreign page whose name resolves to this machine sends its own name as Host.
            raise HTTPException(
                403, f"unknown host {host[:80]!r}; open the service as {self._options.host}, or start it with --token"
            )
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins or normal_origin(origin) in self._origins:
            return
        if not is_same_origin(origin, host):
            raise HTTPException(
                403, f"origin {origin[:80]!r} is not allowed; start the service with --origin {origin[:80]}"
            )


def normal_origin(origin: str) -> str:
    """`origin` in lower case, without the default port of its scheme, as browsers send it."""
    origin = origin.lower()
    scheme, _, authority = origin.partition("://")
    port = f":{_PORTS.get(scheme, 0)}"
    return origin.removesuffix(port) if authority.endswith(port) else origin


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` comes from the server that the header `Host: host` names.

    The scheme is not compared: behind a proxy that terminates TLS this server does not know it.
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
    # All tokens are compared in constant time, to prevent timing attacks.
    return any([hmac.compare_digest(token, other) for other in known])  # noqa: C419


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
