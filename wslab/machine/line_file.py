"""A file that grows by whole lines, on a disk that may be full, or be gone.

1. Each append is on its way to the disk when it returns, in one write where the disk takes it whole, so that lines of
   several processes do not mix.
2. A disk that is nearly full takes a part of a line first. The rest of that line is written before anything else as
   soon as there is space again, so a torn line can only be the last one.
3. What is written to a file that was removed while open would be lost. That is an error here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path


class LineFile:
    """A text file that lines are appended to.

    Args:
        path: the file.
        replace: start with an empty file where there is one already.

    Raises:
        OSError: it cannot be opened; the error names the file.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_TRUNC if replace else 0)
        self._fd = os.open(path, flags, 0o644)
        self._torn = b""

    def append(self, lines: Iterable[str]) -> None:
        """Append lines, each with its line end.

        Raises:
            OSError: not all of it could be written; the error names the file. The lines behind the one that was torn
                are lost.
        """
        whole = left = self._torn + "".join(lines).encode()
        try:
            while left:
                left = left[os.write(self._fd, left) :]
            if not os.fstat(self._fd).st_nlink:
                raise OSError(errno.ENOENT, "it was removed")
        except OSError as problem:
            written = whole[: len(whole) - len(left)]
            is_torn = not written.endswith(b"\n") if written else bool(self._torn)
            self._torn = left[: left.find(b"\n") + 1] if is_torn else b""
            raise OSError(problem.errno, problem.strerror, str(self.path)) from problem
        self._torn = b""

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def why_not_written(problem: OSError) -> str:
    """Return in one line which file cannot be written and why."""
    return f"{problem.filename or 'a file'} cannot be written: {problem.strerror or problem}"
