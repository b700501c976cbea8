"""Ports for servers that are started, and started again, by other programs."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the ephemeral ports: the kernel gives none of these to a client while the server is down.
_FIRST, _END = 20_000, 32_000


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A loopback port that nobody uses. Raises OSError."""
    # Of the system's randomness: test processes are seeded alike.
    for port in random.SystemRandom().sample(range(_FIRST, _END), 100):
        with socket.socket(type=kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses, all different. Raises OSError."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
