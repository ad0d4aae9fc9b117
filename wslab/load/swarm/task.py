"""What one worker of the swarm is asked for."""

from __future__ import annotations

import _socket

ECHO, PING = "echo", "ping"
# RFC 6455, 5.5: a control frame has no more.
PING_BYTES_MAX = 125


class Task:
    """A worker's share of the load.

    Attributes:
        family, address: where to dial, as `socket.connect` takes it.
        connections: how many to open.
        first: number of the first of them in the whole swarm.
        sources: source addresses, used in turn; empty = the kernel chooses.
        destinations: addresses of the server to dial in turn; empty = `address` alone.
        ports_at_bind: let bind choose the port instead of connect, as a program that knows no better does.
        pending_max: dials that may be under way at the same time.
        window: messages that may be under way at the same time in the verify phase.
        rate: connections/s, None = as fast as `pending_max` allows.
        start_after: seconds after the ramp began at which this worker's first connection is due.
        message_rate: messages/s per connection in the hold phase.
        message_bytes: payload of a message.
        proof: what shows that a connection lives: `echo`, a message that comes back, or `ping`, and its pong.
        broadcast: what comes unasked is broadcasts, whose spread is measured.
        timeout: seconds after which an unanswered dial counts as failed.
        echo_timeout: seconds after which a message that did not come back counts as failed.
    """

    family: int = _socket.AF_INET
    address: tuple[object, ...] = ("127.0.0.1", 0)
    connections = 0
    first = 0
    sources: tuple[str, ...] = ()
    destinations: tuple[tuple[object, ...], ...] = ()
    ports_at_bind = False
    pending_max = 64
    window = 16
    rate: float | None = None
    start_after = 0.0
    message_rate = 0.0
    message_bytes = 32
    proof = ECHO
    broadcast = False
    timeout = 10.0
    echo_timeout = 15.0

    def __init__(self, **fields: object) -> None:
        for name, value in fields.items():
            setattr(self, name, value)
