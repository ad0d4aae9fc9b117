"""Sockets as the kernel knows them: what is unread, what waits to be accepted, and which ports are bound by name."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from wslab.machine.sockets import (
    PASSED_MOST,
    SAMPLED,
    bound_ports,
    read_listeners,
    sample_server,
    sample_swarm,
    worth_sampling,
)

CONNECTIONS = 8


class Load:
    """A listener with connections: of the first, the server has accepted and has not read what was sent."""

    def __init__(self, stack: ExitStack) -> None:
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port = self.listener.getsockname()[1]
        self.clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", self.port))) for _ in range(CONNECTIONS)
        ]
        self.accepted = [stack.enter_context(self.listener.accept()[0]) for _ in range(CONNECTIONS - 3)]


@pytest.fixture
def load() -> Iterator[Load]:
    with ExitStack() as stack:
        yield Load(stack)


def test_what_a_server_has_not_read_is_seen_in_its_sockets(load: Load) -> None:
    for client in load.clients[:2]:
        client.sendall(b"hello")
    seen = sample_server(load.port)
    assert seen is not None
    assert (seen.sockets, seen.waiting, seen.unread_bytes) == (CONNECTIONS, 2, 10)
    load.accepted[0].recv(5)
    load.accepted[1].recv(5)
    read = sample_server(load.port)
    assert read is not None
    assert (read.waiting, read.unread_bytes) == (0, 0)


def test_the_swarm_s_end_is_told_by_the_port_that_it_dialled(load: Load) -> None:
    load.accepted[0].sendall(b"greeting")
    seen = sample_swarm(load.port)
    assert seen is not None
    assert (seen.sockets, seen.waiting, seen.unread_bytes) == (CONNECTIONS, 1, 8)
    assert seen.roundtrip_seconds is None or 0 < seen.roundtrip_seconds < 1


def test_no_more_connections_are_looked_at_than_are_wanted(load: Load) -> None:
    seen = sample_server(load.port, most=3)
    assert seen is not None
    assert seen.sockets == 3


def test_a_listener_shows_what_waits_to_be_accepted(load: Load) -> None:
    seen = read_listeners(load.port)
    assert seen is not None
    assert (seen.sockets, seen.waiting) == (1, 3)
    load.listener.close()
    closed = read_listeners(load.port)
    assert closed is not None
    assert closed.sockets == 0


def test_a_port_that_a_socket_is_bound_to_by_name_is_one_that_connect_passes_over(load: Load) -> None:
    ports = bound_ports(0)
    assert ports is not None
    assert load.port in ports
    assert load.clients[0].getsockname()[1] not in ports
    assert load.port in (bound_ports(PASSED_MOST + 1) or ())


@pytest.mark.parametrize(
    ("ours", "everybody", "worth"),
    [
        (0, 2_000, True),
        (100, 300_000, False),  # the walk would pass all of the others for ours
        (100_000, 1_900_000, True),  # enough of ours are met soon
        (2_000_000, 4_000_000, True),
    ],
)
def test_a_sample_is_taken_only_where_few_sockets_of_others_are_passed(ours: int, everybody: int, worth: bool) -> None:
    assert worth_sampling(ours, everybody) is worth
    assert SAMPLED < PASSED_MOST
