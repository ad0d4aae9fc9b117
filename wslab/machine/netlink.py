"""Ask the kernel over netlink: one question, and as many of its answers as are wanted.

The few questions that a sample asks every second are asked here directly. pyroute2 knows them all, but takes a third of
a second to import, which every run would wait for, and it reads an answer to its end: a listing of sockets would then
cost more with every connection. Here the kernel does no more than fill the parts that are read (32 KiB each), and a
listing ends where its socket is closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Of <linux/netlink.h>; the families are those that `ask` is called with.
ROUTE, SOCK_DIAG = 0, 4
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_PART_BYTES = 1 << 15
# An answer comes from the kernel itself and at once; nothing may hang if it does not.
_ANSWER_SECONDS = 1.0

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x3FFF  # The upper two bits of a type are flags.


def ask(protocol: int, kind: int, question: bytes, *, dump: bool = True) -> Iterator[bytes]:
    """Yield the answers to a question, without their headers; stop reading at any time.

    Args:
        protocol: `ROUTE` or `SOCK_DIAG`.
        kind: type of the message, such as RTM_GETQDISC.
        question: its payload.
        dump: whether the answer is a listing.

    Raises:
        OSError: the kernel refuses the question, or does not answer.
    """
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    with contextlib.closing(netlink):
        netlink.settimeout(_ANSWER_SECONDS)
        flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(question), kind, flags, 1, 0) + question)
        while True:
            part = netlink.recv(_PART_BYTES)
            at = 0
            while at + _HEADER.size <= len(part):
                length, answered, _, _, _ = _HEADER.unpack_from(part, at)
                body = part[at + _HEADER.size : at + length]
                at += (max(length, _HEADER.size) + 3) & ~3
                if answered == _NLMSG_DONE:
                    return
                if answered == _NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", body)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return
                yield body
            if not dump:
                return


def attributes(body: bytes, start: int) -> dict[int, bytes]:
    """Return the attributes of a message, or of a nested attribute, from an offset on, by type."""
    found: dict[int, bytes] = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NESTED] = body[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute of a question."""
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + padding
