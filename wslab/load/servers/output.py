"""What a server prints, kept within bounds: the beginning and the end of it, and how much was left out between."""

from __future__ import annotations

import os
from time import monotonic

HEAD_BYTES, TAIL_BYTES = 1 << 20, 1 << 16
# The end is written again when it has changed, but not more often than this.
TAIL_SECONDS = 1.0
LINES, LINE_CHARS = 5, 200


class Output:
    """The log of a program that may print more than a disk holds.

    Args:
        path: the log, which is appended to; empty for standard error, where nothing is left out.
    """

    def __init__(self, path: str = "") -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644) if path else -1
        self._start = os.fstat(self._fd).st_size if path else 0
        self._tail = bytearray()
        self._next = 0.0
        self._unwritten = False
        self.size = 0

    def take(self, data: bytes) -> None:
        """Keep what was printed."""
        if self._fd < 0:
            _write(2, data)
        elif self.size < HEAD_BYTES:
            _write(self._fd, data[: HEAD_BYTES - self.size], self._start + self.size)
        self.size += len(data)
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        self._unwritten = self._fd >= 0 and self.size > HEAD_BYTES
        if self._unwritten and monotonic() >= self._next:
            self.write_end()

    def write_end(self) -> None:
        """Write the end of what was printed behind its beginning, in the place of an earlier end."""
        if not self._unwritten:
            return
        self._unwritten, self._next = False, monotonic() + TAIL_SECONDS
        end = bytes(self._tail[-(self.size - HEAD_BYTES) :])
        left_out = self.size - HEAD_BYTES - len(end)
        mark = f"\n[{left_out:,} bytes are left out here]\n".encode() if left_out else b""
        at = self._start + HEAD_BYTES
        _write(self._fd, mark + end, at)
        try:
            os.ftruncate(self._fd, at + len(mark) + len(end))
        except OSError:
            pass

    def last_lines(self) -> str:
        """Return the last lines on one line, for a message; empty when nothing was printed."""
        text = self._tail[-LINES * LINE_CHARS * 4 :].decode(errors="replace")
        lines = [" ".join(line.split())[:LINE_CHARS] for line in text.splitlines()]
        return " | ".join([line for line in lines if line][-LINES:])


def _write(fd: int, data: bytes, at: int | None = None) -> None:
    """Write; a full disk must not end the watch over a server."""
    try:
        os.write(fd, data) if at is None else os.pwrite(fd, data, at)
    except OSError:
        pass
