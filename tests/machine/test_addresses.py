"""The addresses of this host towards another: one interface, one network, the kernel's choice first."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest

from wslab.machine import addresses
from wslab.machine.addresses import addresses_towards, own_addresses

LOOPBACK, ETHERNET = 1, 2


def answer(address: str, index: int = ETHERNET, peer: str = "") -> bytes:
    """Return what the kernel answers about an address with its prefix; with a peer where the link has two ends."""
    own = ipaddress.IPv4Interface(address)
    body = struct.pack("=BBBBI", socket.AF_INET, own.network.prefixlen, 0, 0, index)
    for kind, value in ((1, peer or str(own.ip)), (2, str(own.ip))):
        body += struct.pack("=HH", 8, kind) + ipaddress.IPv4Address(value).packed
    return body


@pytest.mark.parametrize(
    ("answers", "towards"),
    [
        (["127.0.0.1/8"], ["127.0.0.1"]),
        (["127.0.0.5/32", "127.0.0.1/8", "127.7.7.7/32"], ["127.0.0.1", "127.0.0.5", "127.7.7.7"]),
        (["127.0.0.1/24", "127.0.0.9/24", "127.0.1.9/24", "10.0.0.1/8"], ["127.0.0.1", "127.0.0.9"]),
        (["10.0.0.1/8"], ["127.0.0.1"]),
        ([], ["127.0.0.1"]),
    ],
    ids=["alone", "aliases within its network", "another network", "not listed", "nothing listed"],
)
def test_they_are_those_of_the_network_of_the_one_that_the_kernel_chooses(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], towards: list[str]
) -> None:
    monkeypatch.setattr(addresses, "ask", lambda *_: map(answer, answers))
    assert addresses_towards("127.0.0.1") == towards


def test_an_address_of_another_interface_or_of_a_peer_is_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [answer("127.0.0.1/8", LOOPBACK), answer("127.0.0.2/8"), answer("127.0.0.3/8", LOOPBACK, peer="127.0.0.4")]
    monkeypatch.setattr(addresses, "ask", lambda *_: iter(told))
    assert addresses_towards("127.0.0.1") == ["127.0.0.1", "127.0.0.3"]


def test_what_the_kernel_does_not_tell_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> object:
        raise PermissionError

    monkeypatch.setattr(addresses, "ask", refuses)
    assert addresses_towards("127.0.0.1") == own_addresses() == []


def test_loopback_is_read_from_this_kernel_and_none_of_the_hosts_own() -> None:
    assert addresses_towards("127.0.0.1")[0] == "127.0.0.1"
    assert "127.0.0.1" not in own_addresses()
    assert addresses_towards("no address") == []
