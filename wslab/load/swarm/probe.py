"""One connection before the load, to find out what proves that a connection to this server lives.

An echo proves the most, as the server's application has read the message and answered it; but most applications do not
echo. A ping is answered by every server that follows RFC 6455 (5.5.2), whatever its application does.
"""

from __future__ import annotations

import _socket
import os
import select
from base64 import b64encode
from time import monotonic

from websockets.frames import Frame, Opcode

from wslab.load.prefork import STDIN
from wslab.load.swarm.task import ECHO, PING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wslab.load.swarm.client_slowpath import Exchange
    from wslab.load.swarm.dialects import WebSocket
    from wslab.load.swarm.task import Task

ECHO_SECONDS, PONG_SECONDS = 1.0, 2.0
# A message that any server takes.
MESSAGE_BYTES_MAX = 1024
PING_PAYLOAD_BYTES = 16


class _Over(Exception):
    """The connection cannot be used any more, or it did not come in time; the text says why."""


def choose_proof(task: Task, dialect: WebSocket) -> tuple[str, str]:
    """Return the proof that suits a server, and why, in words; a ping where nothing was answered.

    Args:
        task: a worker's, for the address, the time-out of a handshake and the size of a message.
        dialect: how the server is spoken to.
    """
    line = _socket.socket(task.family, _socket.SOCK_STREAM, 0)
    try:
        return _try(Probe(line, dialect), task, dialect)
    except (_Over, OSError) as why:
        return PING, f"the first connection {getattr(why, 'strerror', None) or why}"
    finally:
        # A reset, so that the connection leaves no TIME_WAIT behind.
        line.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        line.close()


def _try(probe: Probe, task: Task, dialect: WebSocket) -> tuple[str, str]:
    address = (*task.destinations, task.address)[0]
    probe.open(task, address)
    payload = os.urandom(min(task.message_bytes, MESSAGE_BYTES_MAX))
    if dialect.talk is not None and dialect.talk.protocol.message:
        message, echo = dialect.talk.message(payload), dialect.talk.echo(payload)
    else:
        message, echo = Frame(Opcode.BINARY, payload).serialize(mask=True), payload
    try:
        probe.send(message)
        if probe.hears(lambda exchange: echo in exchange.messages, ECHO_SECONDS):
            return ECHO, "the first connection echoes"
    except (_Over, OSError) as why:
        return PING, f"at a message the first connection {getattr(why, 'strerror', None) or why}"
    payload = os.urandom(PING_PAYLOAD_BYTES)
    probe.send(Frame(Opcode.PING, payload).serialize(mask=True))
    answered = probe.hears(lambda exchange: payload in exchange.pongs, PONG_SECONDS)
    then = "a ping was answered" if answered else f"no pong within {PONG_SECONDS:.0f} s either"
    return PING, f"no echo within {ECHO_SECONDS:.0f} s on the first connection; {then}"


class Probe:
    """The connection.

    Args:
        line: its socket, not connected yet.
        dialect: how the server is spoken to.
    """

    def __init__(self, line: _socket.socket, dialect: WebSocket) -> None:
        self.line, self.dialect = line, dialect
        self.key = b64encode(os.urandom(16))
        self.exchange: Exchange = dialect.exchange(self.key, 0)

    def open(self, task: Task, address: tuple[object, ...]) -> None:
        """Connect and get in."""
        self.line.settimeout(task.timeout)
        if task.sources:
            self.line.bind((task.sources[0], 0))
        self.line.connect(address)
        self.send(self.dialect.request(self.key, task.first))
        if not self.hears(lambda exchange: exchange.entered, task.timeout):
            raise _Over(f"was not opened: {self.exchange.refusal or 'no answer in time'}")

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.line.sendall(data)

    def hears(self, condition: Callable[[Exchange], bool], seconds: float) -> bool:
        """Read, and answer what has to be answered, until something has happened; False when it has not in time."""
        deadline = monotonic() + seconds
        poll = select.poll()
        poll.register(self.line.fileno(), select.POLLIN)
        poll.register(STDIN, select.POLLIN)  # The owner has nothing to say yet: it is its end.
        while not condition(self.exchange):
            ready = [fd for fd, _ in poll.poll(max(0.0, deadline - monotonic()) * 1000)]
            if not ready or STDIN in ready or self.exchange.refusal:
                return False
            data = self.line.recv(1 << 16)
            if not data:
                raise _Over("was closed by the server")
            reply = self.exchange.receive(data)
            if reply:
                self.send(reply)
            if self.exchange.closing:
                raise _Over(f"was ended: {self.exchange.farewell}")
        return True
