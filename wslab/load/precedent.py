"""What one process of a crew has judged good, for the others to know: it spares each of them the library.

To judge once costs a forked process a megabyte, as Python writes to every object that it looks at. One process writes,
the latest that it has judged, and what others read counts when its checksum is right.
"""

from __future__ import annotations

import mmap
from zlib import crc32

_HEADER_WORDS = 3


class Precedent:
    """Bytes that were judged good, and where in them stands what differs each time.

    Make it before the fork.

    Args:
        bytes_max: longer ones are not published.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._memory = mmap.mmap(-1, 8 * _HEADER_WORDS + bytes_max)
        self._words = memoryview(self._memory)[: 8 * _HEADER_WORDS].cast("Q")  # size, place, checksum

    def publish(self, data: bytes, at: int) -> None:
        """Let all know, instead of what was published before. Only one process may call this."""
        if len(data) <= self._bytes_max:
            self._words[0] = 0
            self._memory[8 * _HEADER_WORDS : 8 * _HEADER_WORDS + len(data)] = data
            self._words[1], self._words[2] = at, crc32(data)
            self._words[0] = len(data)

    def known(self) -> tuple[bytes, int] | None:
        """Return what was published last, and its place; None when nothing was, or something just now."""
        size, at, checksum = self._words
        data = self._memory[8 * _HEADER_WORDS : 8 * _HEADER_WORDS + size]
        return (data, at) if size and crc32(data) == checksum else None
