"""The IPv4 addresses of this host from which it can dial another."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator

from wslab.machine.netlink import ROUTE, ask, attributes

# Of <linux/rtnetlink.h> and <linux/if_addr.h>.
_RTM_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFADDRMSG = struct.Struct("=BBBBI")  # family, length of the prefix, flags, scope, index of the interface
_DISCARD = 9  # The probe sends nothing, so that any port will do.


def addresses_towards(host: str) -> list[str]:
    """Return the addresses that this host has towards another, the one that the kernel chooses first.

    The others are those of the same interface that lie in the same network: there the way back is the same.

    Args:
        host: an IPv4 address.

    Returns:
        The addresses; empty where there is no way to that host, or the kernel does not tell.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _DISCARD))
            chosen = str(probe.getsockname()[0])
        known = list(_read())
    except OSError:
        return []
    for index, own in known:
        if str(own.ip) == chosen:
            near = [str(other.ip) for at, other in known if at == index and other.ip in own.network]
            return list(dict.fromkeys([chosen, *near]))
    return [chosen]


def own_addresses() -> list[str]:
    """Return all addresses of this host but those of loopback; empty where the kernel does not tell."""
    try:
        return [str(own.ip) for _, own in _read() if not own.ip.is_loopback]
    except OSError:
        return []


def _read() -> Iterator[tuple[int, ipaddress.IPv4Interface]]:
    """Yield each address with its network, and the index of its interface.

    Raises:
        OSError: the kernel does not tell.
    """
    for body in ask(ROUTE, _RTM_GETADDR, _IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, index = _IFADDRMSG.unpack_from(body)
        found = attributes(body, _IFADDRMSG.size)
        # Of a link between two points, the other is the peer's.
        packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if packed:
            yield index, ipaddress.IPv4Interface((packed, prefix))
