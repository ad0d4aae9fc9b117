"""One shard of an epoll server: accept, hand over what arrives, notice who left.

What a shard knows of an idle connection is its descriptor in the kernel's tables; there is no object, no dictionary
entry and no buffer for it. Only a connection in transition is remembered:

1. `greeting`: accepted, not greeted yet; it has GREETING_SECONDS for it.
2. `unsent`: bytes that the peer has not taken yet. While there are any, nothing more is read from that peer, which is
   all the back-pressure there is to it.
3. `leaving`: half-closed by us, waiting for the peer's end, at most LEAVING_SECONDS.
"""

from __future__ import annotations

import os
import socket
from select import EPOLLERR, EPOLLIN, EPOLLOUT
from time import monotonic

from wslab.load.scoreboard import (
    CAPACITY,
    CLOSED,
    FAILED,
    OPEN,
    OPENED,
    PENDING,
    PID,
    RECEIVED,
    ROLE,
    ROLE_SERVER,
    SENT,
)
from wslab.load.servers.gate import READ_BYTES, Gate

GREETING_SECONDS = 10.0
LEAVING_SECONDS = 2.0
TICK_SECONDS = 1.0
EVENTS_PER_POLL = 256


class Shard(Gate):
    """The event loop of one server process; a server kind says what greeting and talking mean.

    Args:
        listener: the listening socket that all shards share, non-blocking.
        lifeline: descriptor whose end means that the master is gone.
        row: this process's row of the board.

    Attributes:
        greeting_seconds: how long a connection may take to be greeted.
    """

    greeting_seconds = GREETING_SECONDS

    def __init__(self, listener: socket.socket, lifeline: int, row: memoryview[int]) -> None:
        super().__init__(listener, row)
        self.lifeline = lifeline
        self.leaving: dict[int, float] = {}
        self.opened = self.closed = self.messages = 0
        row[PID], row[ROLE], row[CAPACITY] = os.getpid(), ROLE_SERVER, self.capacity

    # What a server kind defines.

    def greet(self, fd: int, data: bytes) -> None:
        """Take bytes of a connection that is not open yet; call `opened_one` once it is."""
        raise AssertionError("a server kind defines this")

    def talk(self, fd: int, data: bytes) -> None:
        """Take bytes of an open connection."""
        raise AssertionError("a server kind defines this")

    def forget(self, fd: int) -> None:
        """Drop what the server kind remembers of a connection that is about to be closed."""

    def too_slow(self, fd: int) -> bytes:
        """Return the last words for a connection that was not greeted in time."""
        return b""

    # The loop.

    def run(self) -> None:
        """Serve until the lifeline ends."""
        self.epoll.register(self.lifeline, EPOLLIN)
        self.resume()
        poll, read = self.epoll.poll, os.read
        lifeline, listener = self.lifeline, self.listener.fileno()
        greeting, leaving = self.greeting, self.leaving
        next_tick = monotonic() + TICK_SECONDS
        while True:
            for fd, mask in poll(TICK_SECONDS, EVENTS_PER_POLL):
                if fd == listener:
                    self.accept()
                    continue
                if fd == lifeline:
                    self.sit_out_the_drain()
                    return
                if mask & EPOLLERR:
                    self.close(fd)
                    continue
                if mask & EPOLLOUT:
                    self.flush(fd)
                    continue
                try:
                    data = read(fd, READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self.close(fd)
                elif fd in greeting:
                    self.greet(fd, data)
                elif fd not in leaving:
                    self.talk(fd, data)
            now = monotonic()
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                self.tick(now)
            self.publish()

    def sit_out_the_drain(self) -> None:
        """Wait for the end of the lifeline without looking at connections any more.

        A byte on the lifeline says that the swarm is about to reset all of them. To close a million one by one would
        take the cores that the reset needs; the kernel does it in one go when this process ends.
        """
        while os.read(self.lifeline, 1):
            pass

    def opened_one(self, fd: int) -> None:
        """Count a connection as open; from here on it costs its descriptor and nothing else."""
        del self.greeting[fd]
        self.opened += 1

    def leave(self, fd: int) -> None:
        """Say no more on this connection: half-close it once all is sent, and wait for the peer's end."""
        if fd in self.leaving:
            return
        if self.greeting.pop(fd, None) is not None:
            self.failed += 1
        else:
            self.closed += 1
        self.leaving[fd] = monotonic() + LEAVING_SECONDS
        if fd not in self.unsent:
            self.half_close(fd)

    def all_sent(self, fd: int) -> None:
        """Half-close a connection on which our last word has now been sent."""
        if fd in self.leaving:
            self.half_close(fd)

    def half_close(self, fd: int) -> None:
        """Send the end of the stream; the descriptor stays open, so that what is under way is not lost to a reset."""
        view = socket.socket(self.listener.family, socket.SOCK_STREAM, 0, fd)
        try:
            view.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        view.detach()

    def lost(self, fd: int, error: int) -> None:
        """Close a connection that is broken."""
        self.close(fd)

    def close(self, fd: int) -> None:
        """Close a connection and forget all of it."""
        self.forget(fd)
        self.unsent.pop(fd, None)
        if self.greeting.pop(fd, None) is not None:
            self.failed += 1
        elif self.leaving.pop(fd, None) is None:
            self.closed += 1
        os.close(fd)
        self.held -= 1
        if not self.accepting:
            self.resume()

    def tick(self, now: float) -> None:
        """Once a second: end what took too long, and try again to accept where accepting had failed."""
        for fd, accepted in list(self.greeting.items()):
            if now - accepted < self.greeting_seconds:
                break  # The table is in the order of arrival.
            words = self.too_slow(fd)
            if words:
                self.send(fd, words)
            if fd in self.greeting:
                self.leave(fd)
        for fd, deadline in list(self.leaving.items()):
            if now >= deadline:
                self.close(fd)
        if not self.accepting:
            self.resume()

    def publish(self) -> None:
        """Write the counters to the board."""
        row = self.row
        row[PENDING] = pending = len(self.greeting)
        row[OPEN] = self.held - pending - len(self.leaving)
        row[OPENED] = self.opened
        row[FAILED] = self.failed
        row[CLOSED] = self.closed
        row[SENT] = row[RECEIVED] = self.messages
