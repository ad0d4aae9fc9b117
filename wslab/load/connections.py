"""Raw descriptors under one epoll: sending without blocking, keeping what the peer has not taken yet.

Both ends of the load build on it. A connection is its descriptor and nothing else; only bytes that could not be sent
at once are kept.
"""

from __future__ import annotations

import os
from select import EPOLLIN, EPOLLOUT, epoll


class Connections:
    """The connections of one process.

    Attributes:
        slow_mask: what is waited for on a connection while bytes are kept for its peer. With EPOLLOUT alone, nothing
            more is read from a peer that does not read; that bounds what is kept.
    """

    slow_mask = EPOLLOUT

    def __init__(self) -> None:
        self.epoll = epoll()
        self.unsent: dict[int, bytes] = {}

    def send(self, fd: int, data: bytes) -> None:
        """Send what the peer takes now and keep the rest until it takes more."""
        if fd in self.unsent:
            self.unsent[fd] += data
            return
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.lost(fd, error.errno or 0)
            return
        if sent < len(data):
            self.unsent[fd] = data[sent:]
            self.epoll.modify(fd, self.slow_mask)

    def flush(self, fd: int) -> None:
        """Send more of what a slow peer has not taken yet, and read from it again once all is gone."""
        data = self.unsent.pop(fd, b"")
        self.epoll.modify(fd, EPOLLIN)
        self.send(fd, data)
        if fd not in self.unsent:
            self.all_sent(fd)

    def all_sent(self, fd: int) -> None:
        """Called when nothing is left to be sent on a connection that had been slow."""

    def lost(self, fd: int, error: int) -> None:
        """Called when sending found the connection broken; closes it."""
        raise AssertionError("an end of the load defines this")
