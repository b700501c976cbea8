"""HTTP(S) GET for sources: authentication, cookies, checked addresses and redirects, timeouts."""

from __future__ import annotations

import functools
import http.client
import socket
import ssl
from http.cookiejar import CookieJar
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit
from urllib.request import Request

from streamcap.media.sources.address import ForbiddenHostError, HostGuard, HostScope
from streamcap.media.sources.base import SourceRefused
from streamcap.media.sources.http.login import HttpLogin
from streamcap.media.sources.http.response import TimedResponse
from streamcap.redact import redact

Origin = tuple[str, str | None, int | None]
"""Scheme, host, port."""

MAX_REDIRECTS = 5
_REASONS = {
    403: ("403: this user may not see it", False),
    404: ("404: the server has no such stream; check the path", True),
}
# What stands for itself in a path and query; `%` because most URLs are already encoded.
_SAFE = "/%:=&?~+!$,;'@()*[]-._"


class ForbiddenUrlError(SourceRefused):
    """The source leads to a URL that it may not fetch."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=False)


class HttpClient:
    """Fetches one URL repeatedly, and the URLs that it leads to. For one thread.

    Every connection goes to an address that `HostGuard` has checked. The user name and password of the URL are sent to
    its own origin only. Certificates are not verified: cameras have self-signed ones.

    Parameters:
        timeout: maximum seconds for connecting, for the head of a response, and for each read.
    """

    def __init__(self, url: str, *, timeout: float, scope: HostScope = HostScope.ANY) -> None:
        self._url = url
        self.where = redact(url)
        self._timeout = timeout
        parts = urlsplit(url)
        self._owner = _origin(parts)
        named = parts.username is not None
        self._login = HttpLogin(unquote(parts.username or ""), unquote(parts.password or "")) if named else None
        self.guard = HostGuard(url, scope)
        self._cookies = CookieJar()
        self._in_use: dict[http.client.HTTPResponse, tuple[Origin, http.client.HTTPConnection]] = {}
        """Responses with `keep` that are not released, and their connections."""
        self._idle: tuple[Origin, http.client.HTTPConnection] | None = None

    def get(
        self, url: str | None = None, *, start: int = 0, end: int | None = None, keep: bool = False
    ) -> http.client.HTTPResponse:
        """A response whose header is read; its `url` is the one after redirects.

        url: default: the client's own.
        start, end: the bytes wanted, if not all. The status is 206 then, or 200 if the server sends all anyway.
        keep: the connection serves the next request to this origin too. Call `release`, not `close`, with the response.

        Raises SourceRefused, OSError, HTTPException; ForbiddenUrlError if it or a redirect may not be fetched.
        """
        url, tried_login = url or self._url, False
        span = f"bytes={start}-{'' if end is None else end - 1}" if start or end is not None else None
        for _ in range(MAX_REDIRECTS + 2):
            response = self._request(url, span, keep=keep)
            status, location = response.status, response.headers.get("Location")
            if status in (301, 302, 303, 307, 308) and location:
                self.release(response)
                url = self._redirected(url, location)
            elif status == 401 and self._login is not None and not tried_login and self._is_owner(url):
                challenges = response.headers.get_all("WWW-Authenticate") or []
                self.release(response)
                if not self._login.answer(challenges):
                    offered = redact(", ".join(challenges))[:80] or "no way to log in"
                    raise SourceRefused(
                        f"{self.where}: 401: it offers {offered}; Basic and Digest are known", retry=False
                    )
                tried_login = True
            elif status == 200 or (status == 206 and span):
                response.url = url
                return response
            else:
                self.release(response)
                raise self._refusal(status)
        raise SourceRefused(f"{self.where}: it redirects more than {MAX_REDIRECTS} times", retry=True)

    def release(self, response: http.client.HTTPResponse) -> None:
        """Close a response of `keep`; its connection stays open if the response was read to its end."""
        may_keep = not response.will_close and (response.length == 0 or response.isclosed())
        response.close()
        used = self._in_use.pop(response, None)
        if used is not None and may_keep:
            used, self._idle = self._idle, used
        if used is not None:
            used[1].close()

    def close(self) -> None:
        """Close all kept connections. Idempotent."""
        for response in list(self._in_use):
            self.release(response)
        idle, self._idle = self._idle, None
        if idle is not None:
            idle[1].close()

    def _request(self, url: str, span: str | None, *, keep: bool) -> http.client.HTTPResponse:
        parts = self._split(url)
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_SAFE)
        headers = {"User-Agent": "streamcap", "Accept": "*/*", "Connection": "keep-alive" if keep else "close"}
        if span is not None:
            headers["Range"] = span
        authorization = self._login.header("GET", target) if self._login is not None and self._is_owner(url) else None
        if authorization:
            headers["Authorization"] = authorization
        request = Request(url)  # noqa: S310 - never opened: the cookie jar takes this type
        self._cookies.add_cookie_header(request)
        if (cookie := request.get_header("Cookie")) is not None:
            headers["Cookie"] = cookie
        origin = _origin(parts)
        connection, response = self._send_idle(origin, target, headers) if keep else (None, None)
        if connection is None or response is None:
            connection = self._connection(url, parts)
            response = _send(connection, target, headers)
        if keep:
            self._in_use[response] = origin, connection
        elif (sock := connection.sock) is not None:
            # The response owns the socket from here on.
            connection.sock = None
            sock.close()
        self._cookies.extract_cookies(response, request)
        return response

    def _send_idle(
        self, origin: Origin, target: str, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse] | tuple[None, None]:
        """The idle connection and its response; nothing if none goes to `origin`, or the server closed it meanwhile."""
        if self._idle is None or self._idle[0] != origin:
            return None, None
        (_, connection), self._idle = self._idle, None
        try:
            return connection, _send(connection, target, headers)
        except (OSError, http.client.HTTPException):
            return None, None

    def _connection(self, url: str, parts: SplitResult) -> http.client.HTTPConnection:
        host, secure = parts.hostname or "", parts.scheme.lower() == "https"
        port = parts.port or (443 if secure else 80)
        try:
            addresses = self.guard.resolve(host, port)
        except ForbiddenHostError as fault:
            leads = "" if url == self._url else "it leads to "
            raise ForbiddenUrlError(f"{self.where}: {leads}{host[:80]}: {fault}") from None
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        connection.response_class = TimedResponse
        raw = connect(addresses, port, self._timeout)
        connection.sock = secured(raw, host) if secure else raw
        return connection

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        self._split(target)
        return target

    def _split(self, url: str) -> SplitResult:
        """Raises ForbiddenUrlError if `url` is not an HTTP URL."""
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises ValueError if it is no number
        except ValueError:
            parts = SplitResult("", "", "", "", "")
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            raise ForbiddenUrlError(f"{self.where}: it leads to something that is not HTTP")
        return parts

    def _is_owner(self, url: str) -> bool:
        return _origin(urlsplit(url)) == self._owner

    def _refusal(self, status: int) -> SourceRefused:
        if status == 401:
            named = self._login is not None
            reason = (
                "it does not accept this user name and password" if named else "it asks for a user name and a password"
            )
            return SourceRefused(f"{self.where}: 401: {reason}", retry=False)
        if status in _REASONS:
            reason, retry = _REASONS[status]
        elif status >= 500:
            reason, retry = f"the server is there, but cannot serve the stream now (5xx): {status}", True
        else:
            reason, retry = f"the server does not take the request: {status}", True
        return SourceRefused(f"{self.where}: {reason}", retry=retry)


def _origin(parts: SplitResult) -> Origin:
    return parts.scheme.lower(), parts.hostname, parts.port


def connect(addresses: list[str], port: int, timeout: float) -> socket.socket:
    """A TCP connection to the first of `addresses` that answers within `timeout` seconds. Raises OSError."""
    fault: OSError = OSError("the name has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            fault = error
    raise fault


def secured(raw: socket.socket, host: str) -> ssl.SSLSocket:
    """`raw` with TLS; the certificate is not verified. Closes `raw` if that fails. Raises OSError."""
    try:
        return _tls().wrap_socket(raw, server_hostname=host)
    except BaseException:  # re-raised; no exit may leak the socket
        raw.close()
        raise


@functools.cache
def _tls() -> ssl.SSLContext:
    # Without the system's certificates, which would take 20 ms to load.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _send(connection: http.client.HTTPConnection, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    try:
        connection.request("GET", target, headers=headers)
        return connection.getresponse()
    except BaseException:  # re-raised; no exit may leak the socket
        connection.close()
        raise
