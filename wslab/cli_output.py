"""Standard streams that cannot end a run: results go to standard output, all else to standard error.

1. Descriptors 0, 1 and 2 are open before anything else is opened, so that no file of a run takes the number of a
   standard stream and gets what is printed.
2. What cannot be written (the reader is gone, the disk is full, the terminal is closed) is dropped; the first error of
   standard output is kept, so that the command can say that its result was lost.
3. Characters that an encoding lacks are printed as question marks.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import Any

STDOUT, STDERR = 1, 2


class Stream(io.FileIO):
    """A descriptor for writing whose errors are kept instead of raised.

    Attributes:
        problem: the first error; None while everything was written.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.problem: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write the data, or drop all of it, and return how many bytes are done with."""
        problem: OSError | None = None
        try:
            written = super().write(data)
        except OSError as error:
            written, problem = None, error
        if written is None:  # Or the descriptor does not block, and its buffer is full.
            problem = problem or BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.problem = self.problem or problem
        return memoryview(data).nbytes if written is None else written


def open_standard_streams() -> None:
    """Open what is closed of descriptors 0, 1 and 2, and have `sys.stdout` and `sys.stderr` write through `Stream`.

    A stream that somebody has put in the place of Python's own stays.
    """
    closed = open_descriptors()
    for descriptor, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        present = getattr(sys, name)
        if present is not getattr(sys, f"__{name}__"):
            continue
        raw = Stream(descriptor)
        if descriptor in closed:
            raw.problem = OSError(errno.EBADF, "it is closed")
        encoding = present.encoding if present else "utf-8"
        # Progress is shown at once, as Python's own standard error does.
        buffered = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding, errors="replace", line_buffering=descriptor == STDERR or raw.isatty()
        )
        setattr(sys, name, buffered)


def open_descriptors() -> list[int]:
    """Open `/dev/null` as each of the descriptors 0, 1 and 2 that is closed, and return which those were."""
    closed = []
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))  # The lowest number that is free, which is this one.
            os.set_inheritable(closed[-1], True)
    return closed


def lost_output() -> OSError | None:
    """Return why a part of standard output could not be written, and forget it; None when nothing was lost.

    A reader that has left, such as `head`, has had what it wanted.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, Stream):
        return None
    problem, raw.problem = raw.problem, None
    return None if isinstance(problem, BrokenPipeError) else problem


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, indent=2, default=str))


def say(line: str) -> None:
    """Print a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)
