"""HTTP(S) GET for sources: authentication, checked redirects, timeouts."""

from __future__ import annotations

import http.client
import socket
import ssl
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from streamcap.media.sources.base import SourceRefused
from streamcap.media.sources.http.address import addresses_fault, resolve
from streamcap.media.sources.http.login import HttpLogin
from streamcap.redact import redact

MAX_REDIRECTS = 5
_REASONS = {
    403: ("403: this user may not see it", False),
    404: ("404: the server has no such stream; check the path", True),
}


class HttpClient:
    """Fetches one URL, also repeatedly. For one thread. Opens a connection for each request.

    Certificates are not verified: cameras have self-signed ones.

    Parameters:
        timeout: maximum seconds for connecting and for each read.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._url = url
        self._where = redact(url)
        self._timeout = timeout
        parts = urlsplit(url)
        self._owner = (parts.scheme.lower(), parts.hostname, parts.port)
        named = parts.username is not None
        self._is_private: bool | None = None
        """Whether the URL itself lies on this machine or a private network; known after the first connection."""
        self._login = HttpLogin(unquote(parts.username or ""), unquote(parts.password or "")) if named else None
        self.url = url
        """The URL of the last response, after redirects."""

    def get(self) -> http.client.HTTPResponse:
        """A response with status 200 whose header is read. Raises SourceRefused, OSError or HTTPException."""
        url, tried_login = self._url, False
        for _ in range(MAX_REDIRECTS + 2):
            response = self._request(url)
            status, location = response.status, response.headers.get("Location")
            if status in (301, 302, 303, 307, 308) and location:
                response.close()
                url = self._redirected(url, location)
            elif status == 401 and self._login is not None and not tried_login and self._is_owner(url):
                challenges = response.headers.get_all("WWW-Authenticate") or []
                response.close()
                if not self._login.answer(challenges):
                    offered = redact(", ".join(challenges))[:80] or "no way to log in"
                    raise SourceRefused(
                        f"{self._where}: 401: it offers {offered}; Basic and Digest are known", retry=False
                    )
                tried_login = True
            elif status == 200:
                self.url = url
                return response
            else:
                response.close()
                raise self._refusal(status)
        raise SourceRefused(f"{self._where}: it redirects more than {MAX_REDIRECTS} times", retry=True)

    def _request(self, url: str) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "streamcap", "Accept": "*/*", "Connection": "close"}
        authorization = self._login.header("GET", target) if self._login is not None and self._is_owner(url) else None
        if authorization:
            headers["Authorization"] = authorization
        connection = self._connection(url, parts)
        try:
            connection.request("GET", target, headers=headers)
            # The response owns the socket from here on.
            return connection.getresponse()
        except BaseException:  # re-raised; no exit may leak the socket
            connection.close()
            raise

    def _connection(self, url: str, parts: SplitResult) -> http.client.HTTPConnection:
        host, secure = parts.hostname or "", parts.scheme.lower() == "https"
        port = parts.port or (443 if secure else 80)
        addresses = resolve(host, port)
        if url == self._url:
            self._is_private = addresses_fault(addresses, allow_private=False) is not None
        else:
            # A public server must not lead into the private network of this service.
            fault = addresses_fault(addresses, allow_private=bool(self._is_private))
            if fault:
                raise SourceRefused(f"{self._where}: it redirects to {host}: {fault}", retry=False)
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        # Connect to the checked address: the name may resolve to another one by now.
        raw = socket.create_connection((addresses[0], port), self._timeout)
        connection.sock = _secured(raw, host) if secure else raw
        return connection

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            raise SourceRefused(f"{self._where}: it redirects to something that is not HTTP", retry=False)
        return target

    def _is_owner(self, url: str) -> bool:
        parts = urlsplit(url)
        return (parts.scheme.lower(), parts.hostname, parts.port) == self._owner

    def _refusal(self, status: int) -> SourceRefused:
        if status == 401:
            named = self._login is not None
            reason = (
                "it does not accept this user name and password" if named else "it asks for a user name and a password"
            )
            return SourceRefused(f"{self._where}: 401: {reason}", retry=False)
        if status in _REASONS:
            reason, retry = _REASONS[status]
        elif status >= 500:
            reason, retry = f"the server is there, but cannot serve the stream now (5xx): {status}", True
        else:
            reason, retry = f"the server does not take the request: {status}", True
        return SourceRefused(f"{self._where}: {reason}", retry=retry)


def _secured(raw: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(raw, server_hostname=host)
    except BaseException:  # re-raised; no exit may leak the socket
        raw.close()
        raise
