"""Which IP addresses a source may connect to: its own host, and the hosts that it leads to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import urlsplit


class HostScope(StrEnum):
    """The hosts that one source may connect to. Link-local addresses only as the URL itself of `ANY`."""

    ANY = "any"
    """The URL may name any host: the owner of the service wrote it. It may lead to others: from a private host to
    private ones too, from a public host to public ones only."""
    PRIVATE = "private"
    """Public and private hosts, and this machine."""
    PUBLIC = "public"
    """Hosts that have public addresses only."""


class ForbiddenHostError(Exception):
    """The host has an address that the source may not connect to. The message says why, without the address."""


class HostGuard:
    """Resolves the hosts that one source connects to. Connect to the addresses it returns, not to the name.

    Parameters:
        url: the source's own URL.
    """

    def __init__(self, url: str, scope: HostScope) -> None:
        self._own = urlsplit(url).hostname
        self._scope = scope
        self.own_is_private = False
        """Whether the source's own host has a private address; known once it was resolved."""

    def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of `host`. Raises ForbiddenHostError, OSError."""
        try:
            addresses = resolve(host, port)
        except UnicodeError as error:
            raise OSError(f"the name {host[:80]!r} is not valid") from error
        if self._scope is HostScope.ANY and host == self._own:
            self.own_is_private = addresses_fault(addresses, allow_private=False) is not None
            return addresses
        allow_private = self._scope is HostScope.PRIVATE or (self._scope is HostScope.ANY and self.own_is_private)
        fault = addresses_fault(addresses, allow_private=allow_private)
        if fault is not None:
            raise ForbiddenHostError(fault)
        return addresses


def address_fault(address: str, *, allow_private: bool) -> str | None:
    """Why the IP `address` is forbidden, as a message; None if it is allowed.

    Link-local addresses (cloud metadata) are always forbidden; loopback and private ones unless `allow_private`.
    Raises ValueError if it is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        # The NAT64 prefix is followed by an IPv4 address.
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return address_fault(str(inner), allow_private=allow_private)
    # The IPv6 loopback is in a reserved range.
    special = ip.is_unspecified or ip.is_multicast or (ip.is_reserved and not ip.is_loopback)
    if ip.is_link_local or special:
        return "link-local and special addresses are not fetched from"
    if not allow_private and not ip.is_global:
        return "addresses of this machine and of private networks are not fetched from; start serve with --allow-net"
    return None


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of `host`, without duplicates. Raises OSError. Connect to one of these, not to the name."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def addresses_fault(addresses: Iterable[str], *, allow_private: bool) -> str | None:
    """The first fault of the addresses of one name; None if all are allowed."""
    faults = (address_fault(address, allow_private=allow_private) for address in addresses)
    return next((fault for fault in faults if fault is not None), None)
