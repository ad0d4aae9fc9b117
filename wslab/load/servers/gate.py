"""The way into a shard: accept while there are descriptors, step back before there are none.

All shards wait on one listening socket, with EPOLLEXCLUSIVE so that an arriving connection wakes one of them. A shard
whose descriptors are used up takes the listener out of its epoll set *before* accept fails (a readable listener that
nobody can accept from would spin), and puts it back when connections have left.
"""

from __future__ import annotations

import errno
import os
import resource
from select import EPOLLEXCLUSIVE, EPOLLIN
from time import monotonic

from wslab.load.connections import Connections
from wslab.load.scoreboard import AT_LIMIT, FAILURE_PHASES, count_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

READ_BYTES = 16384
ACCEPTS_PER_EVENT = 64
# Descriptors that stay free for the interpreter (an import, a traceback) when a shard is full.
FDS_KEPT_FREE = 16
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Gate(Connections):
    """The connections of a server process, and the listener that they come from.

    Args:
        listener: the listening socket that all shards share, non-blocking.
        row: this process's row of the board.

    Attributes:
        greeting: when each connection that is not greeted yet was accepted.
        held: descriptors of connections, in whatever state.
        capacity: how many of them there may be.
    """

    def __init__(self, listener: socket.socket, row: memoryview[int]) -> None:
        super().__init__()
        self.listener, self.row = listener, row
        self.greeting: dict[int, float] = {}
        self.held = self.failed = 0
        self.accepting = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.capacity = soft - self.epoll.fileno() - 1 - FDS_KEPT_FREE

    def accept(self) -> None:
        """Accept a burst, and greet at once whoever has already spoken, which on a fast path is nearly everyone."""
        take, read, set_blocking = self.listener._accept, os.read, os.set_blocking  # type: ignore[attr-defined]
        now = monotonic()
        for _ in range(ACCEPTS_PER_EVENT):
            if self.held >= self.capacity:
                self.pause()
                return
            try:
                fd, _ = take()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS:
                    continue  # The peer left between its connect and our accept.
                self.turn_away(error)
                return
            set_blocking(fd, False)
            try:
                self.epoll.register(fd, EPOLLIN)
            except OSError as error:
                os.close(fd)
                self.failed += 1
                self.turn_away(error)
                return
            self.held += 1
            self.greeting[fd] = now
            try:
                data = read(fd, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                self.greet(fd, data)
            else:
                self.close(fd)

    def turn_away(self, error: OSError) -> None:
        """Accept no more now, and count what the kernel refused (ENOSPC: this user's epoll watches are used up).

        Without a descriptor it is this process that is full, earlier than its limit said: `fs.nr_open` is lower by now.
        """
        if error.errno == errno.EMFILE:
            self.capacity = max(1, self.held)
            self.pause()
            self.row[AT_LIMIT] = 1
            return
        count_failure(self.row, FAILURE_PHASES.index("connect"), error.errno or 0)
        self.pause()

    def pause(self) -> None:
        """Stop waiting for new connections; `AT_LIMIT` says whether it is for want of descriptors of this process."""
        if self.accepting:
            self.epoll.unregister(self.listener.fileno())
            self.accepting = False
            self.row[AT_LIMIT] = self.held >= self.capacity

    def resume(self) -> None:
        """Wait for new connections again if there is room for them."""
        if not self.accepting and self.held < self.capacity:
            try:
                self.epoll.register(self.listener.fileno(), EPOLLIN | EPOLLEXCLUSIVE)
            except OSError:
                return  # Another process was quicker to take the last epoll watch; the next tick tries again.
            self.accepting = True
            self.row[AT_LIMIT] = 0

    def greet(self, fd: int, data: bytes) -> None:
        """Take bytes of a connection that is not open yet."""
        raise AssertionError("a server kind defines this")

    def close(self, fd: int) -> None:
        """Close a connection and forget all of it."""
        raise AssertionError("a shard defines this")
