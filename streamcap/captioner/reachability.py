"""Checks within seconds, without sending a request, whether a web server accepts connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CONNECT_TIMEOUT = 3.0
"""Seconds, name lookup included."""


def is_reachable(url: str, timeout: float = CONNECT_TIMEOUT) -> bool:
    """Whether the host of `url`, or the proxy for it, accepts a connection within `timeout` seconds."""
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and target.hostname and not proxy_bypass(target.hostname):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        address = target.hostname, target.port or (443 if target.scheme == "https" else 80)
    except ValueError:  # an invalid port
        return False
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout):
            connected.set()

    # In a thread, because a DNS lookup has no timeout.
    thread = threading.Thread(target=connect, name="reach", daemon=True)
    thread.start()
    thread.join(timeout)
    return connected.is_set()
