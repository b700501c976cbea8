from __future__ import annotations

import pytest

from streamcap.media.sources.address import address_fault, addresses_fault, resolve

NEVER = ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "0.0.0.0", "::"]
NEVER += ["224.0.0.1", "ff02::1", "255.255.255.255", "2002:a9fe:a9fe::1"]
PRIVATE = ["127.0.0.1", "127.8.8.8", "::1", "10.0.0.5", "172.16.0.1", "192.168.1.20", "fd00::1", "100.64.0.1"]
PRIVATE += ["::ffff:127.0.0.1", "::ffff:10.0.0.5", "64:ff9b::7f00:1"]
PUBLIC = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", NEVER)
def test_address_fault_link_local_and_special_never(address: str) -> None:
    for allow_private in (True, False):
        assert "link-local" in (address_fault(address, allow_private=allow_private) or "")


@pytest.mark.parametrize("address", PRIVATE)
def test_address_fault_private_where_allowed(address: str) -> None:
    assert address_fault(address, allow_private=True) is None
    assert "--allow-net" in (address_fault(address, allow_private=False) or "")


@pytest.mark.parametrize("address", PUBLIC)
def test_address_fault_public_always(address: str) -> None:
    assert address_fault(address, allow_private=False) is None


def test_addresses_fault_is_that_of_any() -> None:
    assert addresses_fault(["8.8.8.8", "127.0.0.1"], allow_private=False)
    assert addresses_fault(["8.8.8.8"], allow_private=False) is None


@pytest.mark.parametrize("name", ["127.0.0.1", "2130706433", "0x7f000001", "127.1", "localhost"])
def test_resolve_sees_through_spellings_of_an_address(name: str) -> None:
    assert all(address_fault(one, allow_private=False) for one in resolve(name, 80))
