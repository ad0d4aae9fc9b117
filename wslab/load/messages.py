"""Events of the supervisor: on stdout for the caller, and in `events.jsonl` for the record.

1. Sending never blocks. A caller that does not read (a stopped notebook, a debugger) must not stop the supervision of
   memory: what does not fit into the pipe is kept here, and when too much is kept, figures are dropped.
2. The file is written before the caller is sent an event, so what a caller knows is also on disk.
3. A caller that is gone is not an error: end of file on stdin reports it, and events still go to the file.
4. A file that cannot be written, such as on a full disk, does not end a run before it is drained: the caller gets one
   `error` event that names the file.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import time
from pathlib import Path
from typing import Any

from wslab.machine.line_file import LineFile, why_not_written

# About a minute of samples and live figures: enough for a busy caller, and little memory.
WAITING_BYTES_MAX = 1 << 18


class Reports:
    """Records events and sends them to the caller.

    Args:
        fd: descriptor of the caller's end.
        epoch: value of the monotonic clock that `elapsed_seconds` counts from.
    """

    def __init__(self, fd: int, epoch: float) -> None:
        self.fd = fd
        self.epoch = epoch
        self._waiting = bytearray()
        self._file: LineFile | None = None
        self._unwritten = False
        if stat.S_ISFIFO(os.fstat(fd).st_mode):  # Never a terminal: the shell shares its flags.
            os.set_blocking(fd, False)

    def open_file(self, path: Path) -> None:
        """Append events to `path` from now on.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = LineFile(path)

    def event(self, name: str, **fields: Any) -> None:
        """Record an event and send it to the caller."""
        line = self._line(name, fields)
        if self._file is not None:
            try:
                self._file.append([line])
            except OSError as problem:
                if not self._unwritten:
                    self._unwritten = True
                    self._waiting += self._line("error", unwritten_fields(problem, role="supervisor")).encode()
        self._waiting += line.encode()
        self.flush()

    def figure(self, name: str, **fields: Any) -> None:
        """Send the caller what is recorded elsewhere or not at all; dropped when too much is waiting already."""
        if len(self._waiting) < WAITING_BYTES_MAX:
            self._waiting += self._line(name, fields).encode()
        self.flush()

    def flush(self, seconds: float = 0.0) -> bool:
        """Write what waits, for at most `seconds`, and return whether all of it is written."""
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


def unwritten_fields(problem: OSError, **fields: Any) -> dict[str, Any]:
    """Return the fields of the `error` event about a file of the run that cannot be written."""
    return {"message": why_not_written(problem), "file": problem.filename, "errno": problem.errno, **fields}
