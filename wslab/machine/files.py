"""Small files of the kernel, read once or repeatedly.

1. A file that is not there, or may not be read, is None: kernels, containers and privileges differ.
2. Any other failure, such as no descriptors left, is raised: it would look like a missing file otherwise.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

# The pressure files give EOPNOTSUPP when the kernel was started with psi=0; the files of a control group that has been
# removed give ENODEV.
_ABSENT = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESRCH, errno.EACCES, errno.EPERM),
        *(errno.EOPNOTSUPP, errno.ENODEV),
    )
)
_CHUNK = 65536


class OpenFile:
    """A file kept open and read from its start each time, at half the cost of opening it again.

    A handle on `/proc/PID/...` belongs to that very process: after its end reads give None, even when the pid is
    used again.

    Args:
        path: the file; when it is absent, every read gives None.
    """

    __slots__ = ("_fd",)

    def __init__(self, path: str | Path) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as problem:
            if problem.errno not in _ABSENT:
                raise

    def read(self) -> str | None:
        """Return the whole text as it is now, or None when the file is absent."""
        if self._fd < 0:
            return None
        try:
            data = chunk = os.pread(self._fd, _CHUNK, 0)
            # The kernel returns tables with a row per CPU page by page: only an empty read is the end.
            while chunk:
                chunk = os.pread(self._fd, _CHUNK, len(data))
                data += chunk
        except OSError as problem:
            if problem.errno not in _ABSENT:
                raise
            return None
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the handle; reads give None from then on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_text(path: str | Path) -> str | None:
    """Return the text of a file, or None when it is absent."""
    file = OpenFile(path)
    try:
        return file.read()
    finally:
        file.close()
