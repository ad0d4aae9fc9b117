"""Bytes that peers have not taken yet: a slow peer is a connection in transition, and its bytes wait here.

Taking bytes off the front costs time in proportion to them, however many parts the peer takes them in.
"""

from __future__ import annotations

import os

# One write offers the kernel this many bytes: more than a socket's buffer takes at once as a rule.
OFFER_BYTES = 1 << 18


class Kept:
    """The bytes kept for the peers of one process.

    Attributes:
        size: bytes kept for all of them.
    """

    def __init__(self) -> None:
        self.size = 0
        self._data: dict[int, bytearray] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._data

    def peers(self) -> list[int]:
        """Return the descriptors that bytes are kept for."""
        return list(self._data)

    def of(self, fd: int) -> int:
        """Return how many bytes are kept for a peer."""
        return len(self._data.get(fd, b""))

    def add(self, fd: int, data: bytes | memoryview) -> None:
        """Keep bytes behind those that are kept already."""
        self._data.setdefault(fd, bytearray()).extend(data)
        self.size += len(data)

    def drop(self, fd: int) -> None:
        """Forget what is kept for a peer."""
        self.size -= len(self._data.pop(fd, b""))

    def flush(self, fd: int) -> int:
        """Send what the peer takes now and return how many bytes those were.

        Raises:
            OSError: the connection is broken.
        """
        data, taken = self._data.get(fd, bytearray()), 0
        while data:
            with memoryview(data) as view, view[:OFFER_BYTES] as offer:
                try:
                    sent = os.write(fd, offer)
                except BlockingIOError:
                    break
                size = len(offer)
            del data[:sent]
            taken += sent
            if sent < size:
                break
        self.size -= taken
        if not data:
            self._data.pop(fd, None)
        return taken
