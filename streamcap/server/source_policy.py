"""`SourcePolicy`: which sources HTTP clients may add."""

from __future__ import annotations

import asyncio
import functools
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException

from streamcap.daemon_pool import DaemonPool
from streamcap.errors import InputError
from streamcap.media.sources.address import HostScope, addresses_fault, resolve
from streamcap.media.sources.url import LOCAL, NETWORK, PUSHED, check_url, scheme_of
from streamcap.redact import redact
from streamcap.server.options import ServerOptions

NETWORK_SCHEMES = frozenset((*NETWORK, *PUSHED))
LOCAL_SCHEMES = frozenset(LOCAL)
RECEIVING_SCHEMES = frozenset({"udp", "rtp"})
"""They bind a local port instead of connecting."""
RESOLVE_TIMEOUT_S = 5.0
# A name server that does not answer holds a thread for as long as it takes. Policy when more wait: 503.
RESOLVE_THREADS = 4
MAX_WAITING_LOOKUPS = 32


class SourcePolicy:
    """Checks URLs of HTTP clients: the scheme, and every IP address that the host resolves to.

    Streams of the command line are not checked.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._allow_local = options.allow_local
        self._allow_net = options.allow_net
        self.scope = HostScope.PRIVATE if options.allow_net else HostScope.PUBLIC
        """The hosts that an added source may connect to, checked again at every connection."""
        self._pool = DaemonPool("resolve", max_threads=RESOLVE_THREADS, max_waiting=MAX_WAITING_LOOKUPS)

    async def check(self, url: str) -> None:
        """Raises HTTPException (403: forbidden), InputError (not a source, or an unknown host), PoolFullError."""
        check_scheme(url, allow_local=self._allow_local)
        scheme = scheme_of(url.strip())
        if scheme not in NETWORK:
            return
        url = check_url(url)
        if binds_local_port(url):
            if not self._allow_local:
                raise HTTPException(
                    403, f"{redact(url)}: it listens on a port of this machine; start the service with --allow-local"
                )
            return
        host = urlsplit(url).hostname or ""
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                addresses = await self._pool.run(functools.partial(resolve, host, 0))
        except TimeoutError:
            raise InputError(f"host {host[:80]!r}: no answer from the name server in {RESOLVE_TIMEOUT_S:g} s") from None
        except (OSError, UnicodeError):
            raise InputError(f"host {host[:80]!r} cannot be resolved; check the name") from None
        fault = addresses_fault(addresses, allow_private=self._allow_net)
        if fault is not None:
            raise HTTPException(403, f"host {host[:80]!r}: {fault}")

    def close(self) -> None:
        """Let the threads end. Idempotent; does not wait."""
        self._pool.close()


def check_scheme(url: str, *, allow_local: bool) -> None:
    """Raises HTTPException (403) for a local source without `allow_local`, InputError for an unknown scheme."""
    scheme, colon, _ = url.strip().partition(":")
    if allow_local or scheme.lower() in NETWORK_SCHEMES:
        return
    if url.strip()[len(scheme) :].startswith("://") and scheme.lower() not in LOCAL_SCHEMES:
        raise InputError(f"no source has the scheme {scheme[:20]!r}; use {', '.join(sorted(NETWORK_SCHEMES))}")
    what = "a file" if not colon or "/" in scheme else f"{scheme[:20]}:"
    raise HTTPException(
        403, f"{what} is a source of this machine: use a network address, or start the service with --allow-local"
    )


def binds_local_port(url: str) -> bool:
    """Whether the source waits for a sender on a local port: `udp://`, `rtp://`, an SRT listener or rendezvous."""
    scheme = scheme_of(url)
    if scheme != "srt":
        return scheme in RECEIVING_SCHEMES
    parts = urlsplit(url)
    modes = parse_qs(parts.query, keep_blank_values=True).get("mode", ["caller"])
    return not parts.hostname or modes != ["caller"]
