"""Which addresses may be fetched from on someone else's word: an added stream, a redirect."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable


def address_fault(address: str, *, allow_private: bool) -> str | None:
    """Why nothing may be fetched from the IP `address`, in words; None where it may.

    Link-local addresses, where clouds keep their machines' secrets, never; loopback and private ones with
    `allow_private`. Raises ValueError for what is no IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        # NAT64's prefix carries an IPv4 address at its end.
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return address_fault(str(inner), allow_private=allow_private)
    # IPv6's loopback lies in a reserved range.
    special = ip.is_unspecified or ip.is_multicast or (ip.is_reserved and not ip.is_loopback)
    if ip.is_link_local or special:
        return "link-local and special addresses are not fetched from"
    if not allow_private and not ip.is_global:
        return "addresses of this machine and of private networks are not fetched from; start serve with --allow-net"
    return None


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of `host`, each once. Raises OSError. Connect to one of them, not to the name again."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def addresses_fault(addresses: Iterable[str], *, allow_private: bool) -> str | None:
    """The first fault among all the addresses of one name: none of them may be forbidden."""
    faults = (address_fault(address, allow_private=allow_private) for address in addresses)
    return next((fault for fault in faults if fault is not None), None)
