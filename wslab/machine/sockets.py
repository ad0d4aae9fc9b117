"""TCP sockets as the kernel knows them: what waits in those of the load, and which ports are taken.

Read by sock_diag, from outside, whoever's sockets they are.

1. Only a sample of the connections is looked at, never all: see `SAMPLED`. The kernel keeps them in a hash table
   whose order has nothing to do with the order of the connections. It walks past the sockets of others until enough are
   found; where these are too many (`worth_sampling`), nothing is read: a walk past 1.9 million took a second.
2. A socket is told by its port: the server's have that of the server here, the swarm's have it as their peer's.
3. All is seen of one network namespace: that of the caller.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from itertools import islice

from wslab.machine.netlink import SOCK_DIAG, ask, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Connections of each end that are looked at.
SAMPLED = 256
# Sockets that a walk may pass, a few milliseconds of one CPU.
PASSED_MOST = 200_000

# Of <linux/inet_diag.h>, <linux/sock_diag.h> and <net/tcp_states.h>.
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_INFO = 2
_ESTABLISHED, _LISTEN, _BOUND_INACTIVE = 1, 10, 13
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# Family, protocol, extensions, padding, states; then ports in network order, addresses, interface and cookie.
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIII")
_NO_COOKIE = 0xFFFFFFFF
# Family, state, timer, retransmissions; ports; addresses, interface, cookie; expiry, receive queue, send queue, uid,
# inode. A listener has the connections that wait to be accepted as its receive queue, and their most as its send queue.
_MESSAGE = struct.Struct("=BBBB2s2s16s16sIIIIIIII")
# tcpi_min_rtt of struct tcp_info, in microseconds; a connection that has measured none has all bits set.
_MIN_RTT_AT, _MIN_RTT_NONE = 148, 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What some connections of one end have in their queues.

    Attributes:
        sockets: how many were looked at.
        waiting: those of them with bytes that their process has not read.
        unread_bytes: these bytes.
        unacknowledged_bytes: bytes written that the other end's kernel has not acknowledged.
        roundtrip_seconds: least round trip that TCP has measured; None where none has.
    """

    sockets: int
    waiting: int
    unread_bytes: int
    unacknowledged_bytes: int
    roundtrip_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening TCP socket.

    Attributes:
        address: where it listens, such as `127.0.0.1` or `::`.
        port: its port.
        inode: what identifies it among the descriptors of a process.
        waiting: connections in its accept queue.
        backlog: the most that this queue holds; 0 where the kernel does not say.
    """

    address: str
    port: int
    inode: int
    waiting: int = 0
    backlog: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """The listening sockets of a port.

    Attributes:
        sockets: how many there are.
        waiting: connections in their accept queues.
    """

    sockets: int
    waiting: int


def worth_sampling(ours: int, all_sockets: int) -> bool:
    """Return whether a sample is found among all sockets of the machine without passing too many.

    Args:
        ours: connections of the load.
        all_sockets: TCP sockets of the whole machine, /proc/net/sockstat alloc.
    """
    return all_sockets * min(1.0, SAMPLED / max(1, ours)) <= PASSED_MOST


def sample_server(port: int, most: int = SAMPLED) -> Sample | None:
    """Return a sample of the connections that a server on this host has on a port; None where it cannot be read."""
    return _sample(most, source=port)


def sample_swarm(port: int, most: int = SAMPLED) -> Sample | None:
    """Return a sample of the connections from this host to a port; None where it cannot be read."""
    return _sample(most, destination=port)


def diagnosed_listeners(port: int = 0) -> list[Listener]:
    """Return the listening sockets of a port, or, with 0, of all.

    Raises:
        OSError: the kernel does not answer such questions.
    """
    return [_listener(fields) for family in _FAMILIES for fields, _ in _list(family, 1 << _LISTEN, source=port)]


def _listener(fields: tuple[Any, ...]) -> Listener:
    packed = fields[6][:4] if fields[0] == socket.AF_INET else fields[6]
    return Listener(
        address=socket.inet_ntop(fields[0], packed),
        port=int.from_bytes(fields[4], "big"),
        inode=fields[15],
        waiting=fields[12],
        backlog=fields[13],
    )


def read_listeners(port: int) -> Listeners | None:
    """Return the listeners of a port and what waits in their accept queues; None where that cannot be read."""
    try:
        waiting = [one.waiting for one in diagnosed_listeners(port)]
    except OSError:
        return None
    return Listeners(sockets=len(waiting), waiting=sum(waiting))


def bound_ports(all_sockets: int) -> frozenset[int] | None:
    """Return the ports that `connect` does not choose, because a socket was bound to them by name; None if not read.

    Those of listeners, and of sockets that are bound and nothing more (seen since Linux 6.8). A port that `connect`
    chose itself is taken only towards the same destination.

    Args:
        all_sockets: TCP sockets of the whole machine; where the walk would pass too many, only listeners are counted.
    """
    states = 1 << _LISTEN | (1 << _BOUND_INACTIVE if all_sockets <= PASSED_MOST else 0)
    try:
        listed = [fields for family in _FAMILIES for fields, _ in _list(family, states)]
    except OSError:
        return None
    return frozenset(int.from_bytes(fields[4], "big") for fields in listed)


def _sample(most: int, *, source: int = 0, destination: int = 0) -> Sample | None:
    sockets: list[tuple[int, int, int | None]] = []
    try:
        for family in _FAMILIES:
            if sockets:  # A server has its connections of one family: what was accepted over IPv4 at `::` is IPv6.
                break
            listed = _list(family, 1 << _ESTABLISHED, source=source, destination=destination, info=True)
            sockets += [(fields[12], fields[13], _min_rtt(body)) for fields, body in islice(listed, most)]
    except OSError:
        return None
    roundtrips = [roundtrip for _, _, roundtrip in sockets if roundtrip is not None]
    return Sample(
        sockets=len(sockets),
        waiting=sum(unread > 0 for unread, _, _ in sockets),
        unread_bytes=sum(unread for unread, _, _ in sockets),
        unacknowledged_bytes=sum(unacknowledged for _, unacknowledged, _ in sockets),
        roundtrip_seconds=min(roundtrips) / 1e6 if roundtrips else None,
    )


def _min_rtt(body: bytes) -> int | None:
    info = attributes(body, _MESSAGE.size).get(_INET_DIAG_INFO, b"")
    if len(info) < _MIN_RTT_AT + 4:
        return None
    (roundtrip,) = struct.unpack_from("=I", info, _MIN_RTT_AT)
    return roundtrip if roundtrip != _MIN_RTT_NONE else None


def _list(
    family: int, states: int, *, source: int = 0, destination: int = 0, info: bool = False
) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    extensions = 1 << (_INET_DIAG_INFO - 1) if info else 0
    ports = [port.to_bytes(2, "big") for port in (source, destination)]
    question = _REQUEST.pack(
        family, socket.IPPROTO_TCP, extensions, states, *ports, b"", b"", 0, _NO_COOKIE, _NO_COOKIE
    )
    for body in ask(SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, question):
        yield _MESSAGE.unpack_from(body), body
