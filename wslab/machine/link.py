"""The link of the load: the interface towards the server, and the queueing discipline that packets wait in there."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from dataclasses import dataclass

from wslab.machine.netlink import ROUTE, ask, attribute, attributes

# Of <linux/rtnetlink.h>, <linux/pkt_sched.h> and <linux/gen_stats.h>.
_RTM_GETROUTE, _RTM_GETQDISC = 26, 38
_RTA_DST, _RTA_OIF = 1, 4
_TC_H_ROOT = 0xFFFFFFFF
_TCA_KIND, _TCA_STATS2, _TCA_STATS_QUEUE = 1, 7, 3
_IP_BIND_ADDRESS_NO_PORT = 24  # of <linux/in.h>
_RTMSG = struct.Struct("=BBBBBBBBI")
_TCMSG = struct.Struct("=BxxxiIII")
_QUEUE = struct.Struct("=IIIII")  # packets, bytes, drops, requeues, overlimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The queueing discipline at the root of an interface.

    Attributes:
        name: its kind and interface, such as `tbf on lo`.
        backlog_bytes: bytes that wait in it.
        drops: packets that it has dropped.
        overlimits: times that a packet had to wait for its rate.
    """

    name: str
    backlog_bytes: int
    drops: int
    overlimits: int


def interface_towards(host: str) -> int | None:
    """Return the index of the interface that packets to an address leave by; None where there is no route."""
    try:
        address = ipaddress.ip_address(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, ValueError):
        return None
    if address.is_unspecified:  # A server at all addresses is dialled over loopback.
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    question = _RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, address.packed)
    with contextlib.suppress(OSError):
        for body in ask(ROUTE, _RTM_GETROUTE, question, dump=False):
            found = attributes(body, _RTMSG.size).get(_RTA_OIF)
            return None if found is None else int(struct.unpack("=I", found)[0])
    return None


def is_local(host: str) -> bool:
    """Return whether an address is one of this host, in the network namespace of the caller."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # At port 0 with the port left to connect, this takes nothing: it only fails for an address of others.
            probe.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def read_queue(interface: int) -> Queue | None:
    """Return the queueing discipline of an interface; None where it has none or it cannot be read."""
    try:
        for body in ask(ROUTE, _RTM_GETQDISC, _TCMSG.pack(0, interface, 0, 0, 0)):
            _, index, _, parent, _ = _TCMSG.unpack_from(body)
            if index == interface and parent == _TC_H_ROOT:
                return _queue(interface, attributes(body, _TCMSG.size))
    except OSError:
        return None
    return None


def _queue(interface: int, found: dict[int, bytes]) -> Queue | None:
    counts = attributes(found.get(_TCA_STATS2, b""), 0).get(_TCA_STATS_QUEUE, b"")
    kind = found.get(_TCA_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    if kind == "noqueue" or len(counts) < _QUEUE.size:
        return None
    _, backlog, drops, _, overlimits = _QUEUE.unpack_from(counts)
    try:
        device = socket.if_indextoname(interface)
    except OSError:
        return None
    return Queue(name=f"{kind} on {device}", backlog_bytes=backlog, drops=drops, overlimits=overlimits)
