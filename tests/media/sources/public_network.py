"""A network for tests of address rules: the servers of the tests count as public."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import pytest

from streamcap.media.sources import address


def make_loopback_public(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, str]) -> None:
    """127.0.0.1, where the tests' servers are, stands for a public address. names: host to address, for lookups."""
    check, look_up = address.address_fault, socket.getaddrinfo

    def fault(one: str, *, allow_private: bool) -> str | None:
        return None if one == "127.0.0.1" else check(one, allow_private=allow_private)

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        return look_up(names.get(host, host), *args, **options)

    monkeypatch.setattr(address, "address_fault", fault)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
