"""The interface towards a server, and the queueing discipline of one."""

from __future__ import annotations

import socket
import struct

import pytest

from wslab.machine import link
from wslab.machine.between import Between
from wslab.machine.link import Queue, interface_towards, is_local, read_queue

LOOPBACK = socket.if_nametoindex("lo")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "localhost"])
def test_loopback_leads_to_this_host(host: str) -> None:
    assert interface_towards(host) == LOOPBACK
    assert is_local(host)


def test_an_address_of_nobody_here_is_elsewhere() -> None:
    assert not is_local("192.0.2.1")  # kept for documentation
    assert interface_towards("no-such-host.invalid") is None


def answer(kind: str, parent: int = 0xFFFFFFFF, index: int = LOOPBACK) -> bytes:
    """Return what the kernel answers about a queueing discipline."""

    def attribute(number: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)

    counts = attribute(3, struct.pack("=IIIII", 2, 3_000, 40, 0, 900))
    head = struct.pack("=BxxxiIII", 0, index, 0x10000, parent, 2)
    return head + attribute(1, kind.encode() + b"\0") + attribute(7, counts)


@pytest.mark.parametrize(
    ("answers", "queue"),
    [
        ([answer("tbf")], Queue(name="tbf on lo", backlog_bytes=3_000, drops=40, overlimits=900)),
        # The one at the root counts for those below it, and those of other interfaces do not matter.
        ([answer("netem", index=77), answer("pfifo", parent=0x10001), answer("tbf")], "tbf on lo"),
        ([answer("noqueue")], None),
        ([], None),
    ],
)
def test_the_queue_of_an_interface_is_that_at_its_root(
    answers: list[bytes], queue: Queue | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ask", lambda *question, **how: iter(answers))
    seen = read_queue(LOOPBACK)
    assert queue in (seen, seen and seen.name)


def test_the_columns_between_the_ends_are_read_where_the_server_is_here() -> None:
    between = Between("127.0.0.1")
    assert set(between.read(0, 0).values()) == {None}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            # Where others have a million sockets on this machine, one of ours is not looked for.
            seen = between.read(port, 1_000_000)
    assert (seen["server_listeners"], seen["server_accept_queue"]) == (1, 1)
    assert (seen["server_sockets_sampled"], seen["server_receive_queue_bytes"]) == (1, 5)
    elsewhere = Between("192.0.2.1").read(9, 1)
    assert elsewhere["server_listeners"] is None
