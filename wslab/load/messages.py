"""What the supervisor tells: events on stdout for the caller, and in `events.jsonl` for whoever comes later.

1. Telling never blocks. A caller that does not read (a stopped notebook, a debugger) must not stop the guard that
   keeps the machine alive: what does not fit the pipe waits here, and when too much waits, figures are dropped first.
2. The file is written and flushed before the caller hears of an event, so what a caller knows is also on disk.
3. A caller that is gone is not an error: its lifeline tells, and the file still takes everything.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import time
from pathlib import Path
from typing import Any, TextIO

# About a minute of samples and live figures: enough for a busy caller, nothing to worry about in memory.
WAITING_BYTES_MAX = 1 << 18


class Reports:
    """The way out for events.

    Args:
        fd: descriptor of the caller's end.
        epoch: value of the monotonic clock that `elapsed_seconds` counts from.
    """

    def __init__(self, fd: int, epoch: float) -> None:
        self.fd = fd
        self.epoch = epoch
        self._waiting = bytearray()
        self._file: TextIO | None = None
        if stat.S_ISFIFO(os.fstat(fd).st_mode):  # Never a terminal: the shell shares its flags.
            os.set_blocking(fd, False)

    def open_file(self, path: Path) -> None:
        """Append events to `path` from now on."""
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - kept for the life of the process

    def event(self, name: str, **fields: Any) -> None:
        """Record an event and tell the caller."""
        line = self._line(name, fields)
        if self._file is not None:
            try:
                self._file.write(line)
            except OSError:  # A full disk must not end the run before it is drained.
                pass
        self._waiting += line.encode()
        self.flush()

    def figure(self, name: str, **fields: Any) -> None:
        """Tell the caller something that is recorded elsewhere or not at all; dropped when the caller is behind."""
        if len(self._waiting) < WAITING_BYTES_MAX:
            self._waiting += self._line(name, fields).encode()
        self.flush()

    def flush(self, seconds: float = 0.0) -> bool:
        """Write what waits, for at most `seconds`, and tell whether all of it is written."""
        deadline = time.monotonic() + seconds
        while self._waiting:
            try:
                del self._waiting[: os.write(self.fd, self._waiting)]
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll(left * 1000)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EBADF, errno.EIO):
                    raise
                self._waiting.clear()
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, name: str, fields: dict[str, Any]) -> str:
        elapsed = fields.pop("elapsed_seconds", None)
        if elapsed is None:
            elapsed = round(time.monotonic() - self.epoch, 6)
        return json.dumps({"elapsed_seconds": elapsed, "event": name, **fields}) + "\n"
